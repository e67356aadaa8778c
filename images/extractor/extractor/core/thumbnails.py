"""A few images of a shard for people to look at: lines of `X.thumbnails.jsonl`, beside the shard's file."""

from enum import StrEnum
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from extractor.core.contract import Regions, as_float32
from extractor.core.redact import fit

BOXES = 8
"""Boxes that are kept of an image: the surest."""


class Why(StrEnum):
    """Why an image was chosen among those of its shard."""

    TYPICAL = "typical"
    """Its norm of features and its confidence are nearest the shard's medians."""
    CONFIDENT = "most confident"
    STRANGE = "strangest"
    """They are farthest from these medians."""
    REJECTED = "rejected"
    """It can be decoded, and was rejected all the same."""


class Look(BaseModel):
    """What the network made of an image: means of its rows, and its surest boxes (x1, y1, x2, y2 in pixels)."""

    model_config = ConfigDict(frozen=True)

    norm: float
    confidence: float
    boxes: list[tuple[float, float, float, float]]
    classes: list[int]
    confidences: list[float]

    @classmethod
    def of(cls, found: Regions) -> "Look | None":
        """The look of an image with these rows; None where no row is a real box, or a number of theirs is none."""
        sound = np.arange(len(found.features)) < found.num_boxes
        if found.box_flags is not None:
            sound &= found.box_flags == 0
        features = as_float32(found.features)
        norms = np.sqrt(np.einsum("ij,ij->i", features, features)[sound])
        boxes, classes, confidences = found.boxes[sound], found.obj_id[sound], found.obj_conf[sound]
        if not len(norms) or not all(np.isfinite(numbers).all() for numbers in (norms, boxes, confidences)):
            return None
        surest = np.argsort(-confidences, kind="stable")[:BOXES]
        return cls(
            norm=round(float(norms.mean(dtype=np.float64)), 4),
            confidence=round(float(confidences.mean(dtype=np.float64)), 4),
            boxes=boxes[surest].astype(np.float64).round(1).tolist(),
            classes=classes[surest].tolist(),
            confidences=confidences[surest].astype(np.float64).round(3).tolist(),
        )


class Thumbnail(BaseModel):
    """An image made small, or why it is not shown. `width` and `height` are the decoded image's own, in pixels."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    key: str
    why: Why
    width: int = Field(default=0, ge=0)
    height: int = Field(default=0, ge=0)
    look: Look | None = None
    """None of a reject."""
    jpeg: str = Field(default="", max_length=200_000, pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    """As base64."""
    left_out: Annotated[str, AfterValidator(fit)] = ""
