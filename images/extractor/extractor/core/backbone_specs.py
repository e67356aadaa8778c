"""What the platform knows of each backbone without loading it: its box rule, its fields, its numerics, its revision."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Precision(StrEnum):
    """Arithmetic of the network; fp32 is the parity reference."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


class ClsProb(StrEnum):
    """Whether `resnext101` files carry the class probabilities of every box (640 KB an image)."""

    FULL = "full"
    NONE = "none"


class BoxRule(BaseModel):
    """Which boxes of an image are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_boxes: int = Field(ge=1, le=300)
    max_boxes: int = Field(ge=1, le=300)
    confidence_threshold: float = Field(default=0.0, ge=0.0, lt=1.0)
    background: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "BoxRule":
        if self.min_boxes > self.max_boxes:
            raise ValueError(f"min_boxes is {self.min_boxes}, above max_boxes {self.max_boxes}")
        return self

    @property
    def recorded(self) -> str:
        """The rule as a file's attributes have it."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


@dataclass(frozen=True)
class BackboneSpec:
    """The facts of one backbone that change a number or a file's layout."""

    name: str
    numerics: int
    """Raised whenever the same checkpoint and image would give another number."""
    attributes: bool
    class_probabilities: bool
    checkpoint: str
    """The published checkpoint's file name."""


SPECS = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            "resnet101",
            numerics=1,
            attributes=True,
            class_probabilities=False,
            checkpoint="faster_rcnn_from_caffe_attr.pkl",
        ),
        BackboneSpec(
            "resnext101",
            numerics=2,
            attributes=False,
            class_probabilities=True,
            checkpoint="detectron_model.pth",
        ),
    )
}


def box_rule(
    backbone: str,
    *,
    min_boxes: int | None = None,
    max_boxes: int | None = None,
    confidence_threshold: float | None = None,
    background: bool = False,
) -> BoxRule:
    """The rule that these options mean for a backbone, its reference's own where they are silent.

    `resnet101` keeps exactly 36 boxes, as IGLUE's procedure does; with another minimum and maximum it is the adaptive
    rule of the bottom-up attention paper, whose confidence threshold is 0.2. `resnext101` keeps mmf's 100 boxes at
    threshold 0; with a threshold, between 10 and 100.

    Raises ValueError (pydantic's) when the options contradict each other.
    """
    if backbone == "resnet101":
        if min_boxes is None and max_boxes is None and confidence_threshold is not None:
            min_boxes, max_boxes = 10, 100
        low = min_boxes if min_boxes is not None else min(36, max_boxes or 36)
        high = max_boxes if max_boxes is not None else max(36, low)
        threshold = confidence_threshold if confidence_threshold is not None else (0.2 if low < high else 0.0)
    else:
        threshold = confidence_threshold or 0.0
        high = max_boxes if max_boxes is not None else 100
        low = min_boxes if min_boxes is not None else (10 if threshold > 0 else high)
        low = min(low, high) if min_boxes is None else low
    return BoxRule(min_boxes=low, max_boxes=high, confidence_threshold=threshold, background=background)


def revision(
    backbone: str,
    weights_sha256: str,
    rule: BoxRule,
    precision: Precision = Precision.FP32,
    cls_prob: ClsProb = ClsProb.FULL,
    config_sha256: str | None = None,
) -> str:
    """The digest (12 hex digits) of everything that changes a number or a field of a feature set."""
    spec = SPECS[backbone]
    facts = {
        "backbone": backbone,
        "numerics": spec.numerics,
        "weights": weights_sha256,
        "config": config_sha256,
        "rule": rule.model_dump(mode="json"),
        "precision": precision.value,
        "cls_prob": cls_prob.value if spec.class_probabilities else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
