"""What a person may set for one manual run; every default means: as declared."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from extractor.core.backbone_specs import Precision
from featurise.declaration import former_names
from featurise.declaration.feature_set import FeatureSetSpec


class RunOptions(BaseModel):
    """The parameters of one run.

    Box rule and precision name another feature set, so the run's own specification is `options.applied(spec)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int | None = Field(default=None, ge=1, description="at most this many images")
    keys: list[str] = Field(default=[], description="only these keys or prefixes, relative to the bucket; empty: all")
    images_per_shard: int | None = Field(default=None, ge=1, description="images that one task works through")
    min_boxes: int | None = Field(default=None, ge=1, le=300, description="boxes kept at the least")
    max_boxes: int | None = Field(default=None, ge=1, le=300, description="boxes kept at the most")
    precision: Precision | None = Field(default=None, description="arithmetic of the network")
    lookback_days: int | None = Field(
        default=None,
        ge=0,
        le=366,
        description="days in which late images are looked for; 0 for backfills and with force",
    )
    force: bool = Field(
        default=False, description="featurise again what is done already; of earlier days only with look back days"
    )
    dry_run: bool = Field(default=False, description="plan and report, featurise nothing")

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, data: object) -> object:
        return former_names.replaced(data)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_boxes is not None and self.max_boxes is not None and self.min_boxes > self.max_boxes:
            raise ValueError(f"min_boxes is {self.min_boxes}, above max_boxes {self.max_boxes}")
        return self

    def applied(self, spec: FeatureSetSpec) -> FeatureSetSpec:
        """The feature set as this run means it; applying twice changes nothing more.

        Raises pydantic.ValidationError when options and declaration contradict each other.
        """
        boxes = {name: getattr(self, name) for name in ("min_boxes", "max_boxes") if getattr(self, name) is not None}
        simple = ("images_per_shard", "precision", "lookback_days")
        changes: dict[str, Any] = {name: getattr(self, name) for name in simple if getattr(self, name) is not None}
        if self.force:  # what is done already is done again for the days that are asked for, and no others
            changes.setdefault("lookback_days", 0)
        return FeatureSetSpec.model_validate(
            {**spec.model_dump(), **changes, "boxes": {**spec.boxes.model_dump(), **boxes}}
        )
