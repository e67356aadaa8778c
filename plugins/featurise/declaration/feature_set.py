"""One dataset under one backbone: everything that a run needs to know, as it is declared."""

import datetime
import re
import zoneinfo
from typing import Annotated, Literal, Self

from croniter import CroniterBadDateError, CroniterError, croniter  # type: ignore[import-untyped]
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from extractor.core import backbone_specs
from extractor.core.backbone_specs import ClsProb, FeaturesDtype, GivenRule, Precision, Preprocessing, Rule
from extractor.core.box_files import BoxFormat, Coordinates
from extractor.core.defaults import MAX_REJECT_SHARE, PART_IMAGES, PART_SECONDS
from extractor.core.manifest import ImageIds
from featurise.declaration.alerts import Alerts
from featurise.declaration.section import Section

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SHA256 = r"^[0-9a-f]{64}$"
# Wider than S3's own rule: other stores allow uppercase and underscores.
BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}"


def _prefix(value: str) -> str:
    if not value.endswith("/") or value.startswith("/"):
        raise ValueError(f"{value!r} is no prefix: expected one that ends, and does not start, with a slash")
    return value


def _check_background(backbone: str, background: bool) -> None:
    specs = backbone_specs.specs()
    if background and not specs[backbone].background:
        able = ", ".join(name for name, spec in specs.items() if spec.background)
        raise ValueError(f"background is for {able}, and {backbone} knows no such choice; remove it")


def _bucket(value: str) -> str:
    if not re.fullmatch(BUCKET, value):
        raise ValueError(
            f"{value!r} is no bucket's name: expected 3 to 63 letters, digits, dots, hyphens and underscores, "
            "without s3:// and slashes"
        )
    return value


Bucket = Annotated[str, AfterValidator(_bucket)]
Prefix = Annotated[str, AfterValidator(_prefix)]


class Weights(Section):
    """Which weights: a checkpoint file or its folder, known by its SHA-256."""

    uri: str = Field(min_length=1, description="s3://… or a path: a checkpoint, or a folder with one")
    sha256: str | None = Field(
        default=None, pattern=SHA256, validate_default=True, description="of the checkpoint, in hex"
    )
    config_sha256: str | None = Field(
        default=None, pattern=SHA256, description="of the YAML configuration beside it, in hex"
    )

    @field_validator("sha256")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            raise ValueError(
                "a feature set is named by its weights' SHA-256 and this declaration has none; "
                "`extractor weights check` prints it"
            )
        return value


class Boxes(Section):
    """Which boxes are kept; where silent, the backbone's reference decides. With `given`, all of a file."""

    min_boxes: int | None = Field(default=None, ge=1, le=300, description="fewest boxes of an image")
    max_boxes: int | None = Field(default=None, ge=1, le=300, description="most boxes of an image")
    confidence_threshold: float | None = Field(
        default=None, ge=0, lt=1, description="probability above which a box counts as a detection"
    )
    background: bool = Field(default=False, description="whether the background competes for a box's class")
    given: str | None = Field(
        default=None, min_length=1, description="s3://… or a path: a file of boxes, in place of those a network finds"
    )
    format: BoxFormat | None = Field(
        default=None, description="of that file: `coco`, `jsonl`, `tsv` or `parquet`; see the extractor's README"
    )
    coordinates: Coordinates | None = Field(
        default=None, description="in that file: `xyxy` or `xywh` in pixels of the upright image, or `relative`"
    )
    with_global: bool = Field(default=False, description="whether a box of the whole image comes before the given ones")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        chosen = (self.min_boxes, self.max_boxes, self.confidence_threshold, self.background)
        if self.given is None:
            if (self.format, self.coordinates, self.with_global) != (None, None, False):
                raise ValueError("format, coordinates and with_global are of a file that given names; declare it, too")
        elif chosen != (None, None, None, False):
            raise ValueError(
                "every given box has its row, so none is chosen; remove min_boxes, max_boxes, confidence_threshold and "
                "background"
            )
        elif self.format is None or self.coordinates is None:
            raise ValueError("the form of given is not guessed: expected format and coordinates beside it")
        elif self.format is BoxFormat.COCO and self.coordinates is not Coordinates.XYWH:
            raise ValueError(f"COCO's boxes are x, y, width, height: expected coordinates xywh, not {self.coordinates}")
        return self

    def rule(self, backbone: str) -> Rule:
        """The box rule in full.

        Raises ValueError when the backbone knows no such rule.
        """
        if self.given is None:
            chosen = self.model_dump(include={"min_boxes", "max_boxes", "confidence_threshold", "background"})
            return backbone_specs.box_rule(backbone, **chosen)
        if not backbone_specs.specs()[backbone].given:
            able = ", ".join(name for name, spec in backbone_specs.specs().items() if spec.given)
            raise ValueError(f"given is for {able}, and {backbone} only describes boxes that it finds; remove it")
        return GivenRule(with_global=self.with_global)


class Batches(Section):
    """How the images of one day are recognised."""

    by: Literal["folder", "modified"] = Field(
        default="folder", description="a partition folder named by date, or the day (UTC) of the last change"
    )
    pattern: str = Field(default="%Y-%m-%d", description="the partition folder's name, in strftime's signs")

    @field_validator("pattern")
    @classmethod
    def _names_a_day(cls, value: str) -> str:
        day = datetime.date(2001, 2, 3)
        try:
            found = datetime.datetime.strptime(day.strftime(value), value).date()
        except ValueError:
            found = None
        if found != day:
            raise ValueError(f"{value!r} does not name a day; expected year, month and day as in %Y-%m-%d or %Y/%m/%d")
        return value


class Ready(Section):
    """When a batch is complete: an object that says so, or silence for a while."""

    success: str | None = Field(default=None, description="name of the object in the batch's folder that says complete")
    settle_seconds: int | None = Field(default=None, ge=0, description="seconds without any change in the batch")

    @field_validator("success")
    @classmethod
    def _lies_in_the_folder(cls, value: str | None) -> str | None:
        if value is not None and (not value or "/" in value):
            raise ValueError(f"{value!r} is no object's name in a batch's folder: expected one without slashes")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.success is None) == (self.settle_seconds is None):
            raise ValueError("expected exactly one of success (an object's name) and settle_seconds")
        return self


class Schedule(Section):
    """When a run starts."""

    cron: str = Field(default="0 2 * * *", description="five fields; a run works on the day before it")
    timezone: str = Field(default="UTC", description="of cron and of days, such as Europe/Berlin")

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError(f"{value!r} is no cron expression: expected five fields, as in '0 2 * * *'")
        try:
            croniter(value).get_next()  # a day that no year has, as in '0 0 30 2 *', shows only here
        except CroniterBadDateError as error:
            raise ValueError(f"{value!r} is no cron expression ({error}); expected one as in '0 2 * * *'") from error
        except CroniterError as error:  # whose words repeat parts of the value, which may be a secret's
            raise ValueError(f"{value!r} is no cron expression; expected one as in '0 2 * * *'") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError(f"{value!r} is no time zone; expected a name such as Europe/Berlin or UTC")
        return value


class Limits(Section):
    """How much, how long, how often."""

    max_reject_share: float = Field(
        default=MAX_REJECT_SHARE,
        ge=0,
        le=1,
        description="share of rejects that fails a shard; ten are always tolerated",
    )
    part_images: int = Field(default=PART_IMAGES, ge=1, description="images between two saved parts")
    part_seconds: int = Field(default=PART_SECONDS, ge=1, description="seconds between two saved parts, at the most")
    max_shards: int = Field(default=1000, ge=1, le=1024, description="shards of a run; shards grow to stay below it")
    retries: int = Field(default=3, ge=0, description="further attempts at a failed task")
    pool: str = Field(default="gpu", description="Airflow pool of the extract tasks; it must exist there")
    pool_slots: int = Field(default=1, ge=1, description="slots that an extract task takes")
    extract_timeout_minutes: int = Field(default=360, ge=1, description="minutes that one attempt at a shard may take")
    step_timeout_minutes: int = Field(default=60, ge=1, description="minutes that any other task may take")
    lease_minutes: int = Field(default=180, ge=1, description="minutes until a silent run's claim on a batch expires")
    max_duplicate_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of images that may have another image's features: copies saved again have",
    )
    drift_warning: float = Field(
        default=0.1, gt=0, description="relative change of a file's statistics that is reported"
    )
    drift_error: float = Field(default=0.5, gt=0, description="relative change of a file's statistics that fails it")


class Outputs(Section):
    """Where results go; prefixes end in a slash."""

    bucket: Bucket | None = Field(default=None, description="bucket of all results; by default the images' own")
    features: Prefix = Field(default="features/", description="prefix of published files")
    work: Prefix = Field(default="work/", description="prefix of manifests and parts, removed after publishing")
    quarantine: Prefix = Field(default="quarantine/", description="prefix of files that failed validation")
    reports: Prefix = Field(default="reports/", description="prefix of the runs' pages and thumbnails")
    features_dtype: FeaturesDtype = Field(
        default=FeaturesDtype.FLOAT32,
        description="as what features are stored; `float16` takes half the space, each value off by up to 1/2048 of it",
    )


class FeatureSetSpec(Section):
    """One dataset under one backbone. Survives a trip through JSON."""

    dataset: str = Field(pattern=NAME, description="name; the key below `datasets`")
    backbone: str = Field(description="an installed one, as `resnet101`, `resnext101`; the key below `backbones`")
    bucket: Bucket = Field(description="bucket that the images lie in")
    prefix: Prefix = Field(default="", description="prefix of the images; by default `images/<dataset>/`")
    image_ids: ImageIds = Field(
        default=ImageIds.STEM,
        description="an image's id: `stem`, its file name without extension; `path`, its path below the prefix; "
        "`relative`, its path below the batch without extension",
    )
    batches: Batches = Batches()
    ready: Ready = Ready(settle_seconds=600)
    lookback_days: int = Field(default=3, ge=0, le=366, description="days in which late images are looked for")
    schedule: Schedule = Schedule()
    start_date: datetime.date = Field(description="first day with a batch")
    catchup: bool = Field(default=False, description="whether Airflow works off every day since start_date by itself")
    max_active_runs: int = Field(default=4, ge=1, description="nights under way at a time")
    weights: Weights
    boxes: Boxes = Boxes()
    precision: Precision = Field(default=Precision.FP32, description="arithmetic; fp32 is the parity reference")
    cls_prob: ClsProb = Field(
        default=ClsProb.FULL, description="whether files carry class probabilities, where the backbone has them"
    )
    preprocessing: Preprocessing = Field(
        default=Preprocessing.IGLUE,
        description="whose reading of images is followed: IGLUE's, or, where the backbone offers it, mmf's own (`mmf`)",
    )
    images_per_shard: int = Field(default=2000, ge=1, description="images that one GPU task works through")
    launcher: Literal["process", "kubernetes"] = Field(
        default="process", description="where extract tasks run: on this machine, or as pods"
    )
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    outputs: Outputs = Outputs()

    @model_validator(mode="before")
    @classmethod
    def _default_prefix(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("prefix") and "dataset" in data:
            return {**data, "prefix": f"images/{data['dataset']}/"}
        return data

    @field_validator("backbone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in backbone_specs.specs():
            raise ValueError(f"{value!r} is no backbone; expected one of {', '.join(backbone_specs.specs())}")
        return value

    @field_validator("boxes")
    @classmethod
    def _make_a_rule(cls, value: Boxes, info: ValidationInfo) -> Boxes:
        if "backbone" in info.data:
            value.rule(info.data["backbone"])
            _check_background(info.data["backbone"], value.background)
        return value

    @field_validator("preprocessing")
    @classmethod
    def _of_the_backbone(cls, value: Preprocessing, info: ValidationInfo) -> Preprocessing:
        if "backbone" in info.data:
            able = backbone_specs.specs()[info.data["backbone"]].preprocessings
            if value not in able:
                raise ValueError(f"{info.data['backbone']} has no preprocessing {value}; expected {' or '.join(able)}")
        return value

    @field_validator("ready")
    @classmethod
    def _per_batch(cls, value: Ready, info: ValidationInfo) -> Ready:
        if value.success is not None and "batches" in info.data and info.data["batches"].by == "modified":
            raise ValueError(
                "success is an object in a batch's folder, and batches by modified have none: one object would call "
                "every day complete; use settle_seconds"
            )
        return value

    @property
    def rule(self) -> Rule:
        """The box rule in full."""
        return self.boxes.rule(self.backbone)

    @property
    def revision(self) -> str:
        """The digest of everything that changes a number of the feature set."""
        sha256 = self.weights.sha256 or ""
        return backbone_specs.revision(
            self.backbone,
            sha256,
            self.rule,
            self.precision,
            self.cls_prob,
            self.weights.config_sha256,
            self.preprocessing,
            self.outputs.features_dtype,
        )

    @property
    def feature_set(self) -> str:
        """The feature set's name."""
        return f"{self.dataset}-{self.backbone}-{self.revision}"

    @property
    def dag_id(self) -> str:
        """The DAG's name in Airflow."""
        return f"{self.dataset}__{self.backbone}"
