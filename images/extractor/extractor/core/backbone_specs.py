"""What the platform knows of each backbone without loading it: its box rule, its fields, its numerics, its revision.

A backbone package registers its `BackboneSpec` under the entry point group `extractor.specs`, by the backbone's name,
in a module that needs no torch: the control plane reads it, too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Limit

from extractor.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from extractor.core.contract import Field


class Precision(StrEnum):
    """Arithmetic of the network; fp32 is the parity reference."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


class ClsProb(StrEnum):
    """Whether files carry the class probabilities of every box: 640 KB an image of 100 boxes and 1,600 classes."""

    FULL = "full"
    NONE = "none"


class FeaturesDtype(StrEnum):
    """As what numbers features are stored; they are computed in fp32 or as `Precision` says."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    """Half the size: each value is rounded to 11 significant bits, by at most 1/2048 of it."""


class Preprocessing(StrEnum):
    """Whose script's reading of an image is followed: the same network sees other numbers."""

    IGLUE = "iglue"
    """`cv2.imread`: upright by EXIF, in BGR order."""
    MMF = "mmf"
    """Pillow: as the image lies, in RGB order."""


class BoxRule(BaseModel):
    """Which boxes of an image are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_boxes: int = Limit(ge=1, le=300)
    max_boxes: int = Limit(ge=1, le=300)
    confidence_threshold: float = Limit(default=0.0, ge=0.0, lt=1.0)
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


MAX_GIVEN = 10_000
"""Boxes of an image that a user may give: their features take 80 MB."""


class GivenRule(BaseModel):
    """Every box that the user gives has its row, whatever the network thinks of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    given: Literal[True] = True
    with_global: bool = False
    """Whether a box of the whole image comes first."""

    @property
    def min_boxes(self) -> int:
        """Fewest rows of an image."""
        return 1

    @property
    def max_boxes(self) -> int:
        """Most rows of an image."""
        return MAX_GIVEN + self.with_global

    @property
    def confidence_threshold(self) -> float:
        """No box is left out for its confidence."""
        return 0.0

    @property
    def background(self) -> bool:
        """The background never is a given box's class."""
        return False

    @property
    def recorded(self) -> str:
        """The rule as a file's attributes have it."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


Rule = BoxRule | GivenRule
"""Which rows an image has."""


@dataclass(frozen=True)
class Frame:
    """Where the boxes of an image lie, in its pixels: 0 to `width` and 0 to `height`.

    A box has a positive area; its right side may lie up to `tolerance` pixels left of its left side, and its lower one
    above its upper one, where a reference counts both edge pixels as inside.
    """

    width: float
    height: float
    tolerance: float = 0.0


def _of_the_image(width: int, height: int) -> Frame:
    return Frame(width, height)


Choice = tuple[int, int, float]
"""Fewest boxes, most boxes, confidence threshold."""


@dataclass(frozen=True)
class BackboneSpec:
    """Every difference between backbones that shared code needs to know."""

    name: str
    numerics: int
    """Raised whenever the same checkpoint and image would give another number."""
    checkpoint: str
    """The published checkpoint's file name; its ending tells this backbone's checkpoints from others."""
    choose: Callable[[int | None, int | None, float | None], Choice]
    """The rule that a user's minimum, maximum and threshold mean (None: not given), after the reference's own."""
    classes: int = 1600
    attributes: int = 0
    """Attribute classes; a backbone with none has no attribute fields."""
    class_probabilities: bool = False
    background: bool = False
    """Whether a rule may let the background compete for a box's class."""
    preprocessings: tuple[Preprocessing, ...] = (Preprocessing.IGLUE,)
    """What a user may choose from."""
    feature_width: int = 2048
    vocabulary: Callable[[], Vocabulary] | None = None
    """What its classes and attributes are called, where the weights do not say it."""
    ordered: bool = False
    """Whether an image's rows come in descending order of `obj_conf`."""
    given: bool = False
    """Whether the network can be asked for boxes that the user gives (`GivenRule`)."""
    frame: Callable[[int, int], Frame] = _of_the_image
    """Where boxes may lie in an image of this width and height in pixels."""

    def fields(
        self, choice: ClsProb, *, given: bool = False, stored: FeaturesDtype = FeaturesDtype.FLOAT32
    ) -> "tuple[Field, ...]":
        """The fields of every image's group in a file made under this choice, of boxes that were given or found."""
        from extractor.core import contract  # h5py takes long to import, and to parse a DAG it is not needed

        probabilities = self.classes if self.class_probabilities and choice is ClsProb.FULL else 0
        return contract.fields(
            attributes=self.attributes > 0,
            probabilities=probabilities,
            feature_width=self.feature_width,
            given=given,
            stored=stored.value,
        )


@cache
def specs() -> Mapping[str, BackboneSpec]:
    """The installed backbones' specs, by name."""
    found = {point.name: point.load() for point in entry_points(group="extractor.specs")}
    return dict(sorted(found.items()))


def box_rule(
    backbone: str,
    *,
    min_boxes: int | None = None,
    max_boxes: int | None = None,
    confidence_threshold: float | None = None,
    background: bool = False,
) -> BoxRule:
    """The rule that these options mean for a backbone, its reference's own where they are silent.

    Raises ValueError (pydantic's) when the options contradict each other.
    """
    low, high, threshold = specs()[backbone].choose(min_boxes, max_boxes, confidence_threshold)
    return BoxRule(min_boxes=low, max_boxes=high, confidence_threshold=threshold, background=background)


def revision(
    backbone: str,
    weights_sha256: str,
    rule: Rule,
    precision: Precision = Precision.FP32,
    cls_prob: ClsProb = ClsProb.FULL,
    config_sha256: str | None = None,
    preprocessing: Preprocessing = Preprocessing.IGLUE,
    features_dtype: FeaturesDtype = FeaturesDtype.FLOAT32,
) -> str:
    """The digest (12 hex digits) of everything that changes a number or a field of a feature set."""
    spec = specs()[backbone]
    facts = {
        "backbone": backbone,
        "numerics": spec.numerics,
        "weights": weights_sha256,
        "config": config_sha256,
        "rule": rule.model_dump(mode="json"),
        "precision": precision.value,
        "cls_prob": cls_prob.value if spec.class_probabilities else None,
    }
    if preprocessing is not Preprocessing.IGLUE:  # which was the only one, and goes without saying
        facts["preprocessing"] = preprocessing.value
    if features_dtype is not FeaturesDtype.FLOAT32:
        facts["features_dtype"] = features_dtype.value
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
