"""How far two results for one image agree: with batch mates and without, in one precision and in another.

An image's result may differ by its batch mates in last bits: a library rounds otherwise for another batch size. What
last bits become depends on the precision, since a network amplifies them and boxes whose scores are nearly equal then
change places. `BATCH_BOUNDS` states how far; what is beyond is a fault.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions

SAME_BOX = 0.9
"""IoU above which rows of two results are taken for the same box."""


@dataclass(frozen=True)
class Agreement:
    """Of two results: `kept` and `in_place`, the shares of the first one's rows that the second has too, anywhere or in
    the same place; over the rows kept, the largest difference of a side (pixels) and of the confidence, and the
    smallest and median cosine of features."""

    kept: float
    in_place: float
    box: float
    confidence: float
    cosine: float
    median_cosine: float

    def within(self, bound: "Agreement") -> bool:
        """Whether it is at least as good in everything."""
        return (
            self.kept >= bound.kept
            and self.in_place >= bound.in_place
            and self.box <= bound.box
            and self.confidence <= bound.confidence
            and self.cosine >= bound.cosine
            and self.median_cosine >= bound.median_cosine
        )

    def as_json(self) -> dict[str, Any]:
        """Its figures."""
        return asdict(self)


BATCH_BOUNDS = {
    Precision.FP32: Agreement(
        kept=1.0, in_place=0.9, box=0.05, confidence=5e-4, cosine=1 - 1e-5, median_cosine=1 - 1e-6
    ),
    Precision.TF32: Agreement(kept=0.8, in_place=0.3, box=2.0, confidence=0.02, cosine=0.99, median_cosine=0.9999),
    Precision.FP16: Agreement(kept=0.7, in_place=0.2, box=4.0, confidence=0.03, cosine=0.98, median_cosine=0.999),
    Precision.BF16: Agreement(kept=0.4, in_place=0.05, box=30.0, confidence=0.1, cosine=0.9, median_cosine=0.99),
}
"""How far the result of an image in a batch may be from that of the image alone: synthetic weights, whose scores are
close. fp32's are twice to ten times what an H200 showed; below fp32, of what precisions themselves cost there, half. An
algorithm that is wrong keeps hardly a box."""


def agreement(one: Regions, other: Regions) -> Agreement:
    """How far two results for one image agree; each row of `one` is compared with the nearest of `other`."""
    if len(one.boxes) == 0 or len(other.boxes) == 0:
        same = float(len(one.boxes) == len(other.boxes))
        return Agreement(same, same, 0.0, 0.0, 1.0, 1.0)
    overlaps = _iou(one.boxes, other.boxes)
    nearest = overlaps.argmax(axis=1)
    rows = np.flatnonzero(overlaps[np.arange(len(nearest)), nearest] > SAME_BOX)
    if len(rows) == 0:
        return Agreement(0.0, 0.0, float("inf"), 1.0, 0.0, 0.0)
    mates = nearest[rows]
    same_place = rows[rows < len(other.boxes)]
    in_place = int((overlaps[same_place, same_place] > SAME_BOX).sum())
    cosines = _cosines(one.features[rows], other.features[mates])
    return Agreement(
        kept=len(rows) / len(one.boxes),
        in_place=in_place / len(one.boxes),
        box=float(np.abs(one.boxes[rows] - other.boxes[mates]).max()),
        confidence=float(np.abs(one.obj_conf[rows] - other.obj_conf[mates]).max()),
        cosine=float(cosines.min()),
        median_cosine=float(np.median(cosines)),
    )


def together(found: list[Agreement]) -> Agreement:
    """Of several images: shares on average, differences at their largest, the median of medians."""
    return Agreement(
        kept=float(np.mean([one.kept for one in found])),
        in_place=float(np.mean([one.in_place for one in found])),
        box=max(one.box for one in found),
        confidence=max(one.confidence for one in found),
        cosine=min(one.cosine for one in found),
        median_cosine=float(np.median([one.median_cosine for one in found])),
    )


def _iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    one, other = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = sides.clip(min=0).prod(axis=2)
    areas = [(side[..., 2:] - side[..., :2]).prod(axis=2) for side in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-9))


def _cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, 1e-30))
