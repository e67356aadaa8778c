"""Which boxes of an image are kept: class-agnostic, by each proposal's best class, thinned by NMS."""

import numpy as np
from numpy.typing import NDArray

from extractor.core.backbone_specs import BoxRule

NMS_THRESHOLDS = tuple(float(threshold) for threshold in np.arange(0.5, 1.0, 0.1))
"""IoU above which the weaker box goes; the next is tried when too few are left. The last bits are the reference's."""

Boxes = NDArray[np.float32]


def overlaps(boxes: Boxes) -> NDArray[np.float32]:
    """IoU of every pair of boxes [N, 4] in float32, without the +1 of older code; 0 divided by 0 is no overlap."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inner = np.maximum(high - low, np.float32(0)).prod(axis=2, dtype=np.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nan_to_num(inner / (area[:, None] + area[None, :] - inner), nan=0.0), dtype=np.float32)


def select(boxes: Boxes, scores: NDArray[np.float32], rule: BoxRule) -> tuple[NDArray[np.int64], float]:
    """Rows to keep, best score first, and the NMS threshold that gave them.

    The thresholds 0.5, 0.6 … 0.9 are tried until at least `min_boxes` boxes survive one of them; of the survivors,
    those scoring above `confidence_threshold` are kept, at least `min_boxes` and at most `max_boxes` of them, best
    first. With minimum and maximum both 36 the confidence never matters, and this is the procedure of IGLUE's 36-box
    extraction; with 10 and 100 it is the adaptive rule of Anderson et al., "Bottom-Up and Top-Down Attention" (2018),
    on the same NMS. An image that cannot reach the minimum keeps what survives the last threshold.

    All thresholds advance together through the boxes; the sweep ends early once the strictest has the maximum.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_boxes, sorted_scores = boxes[order], scores[order]
    over = overlaps(sorted_boxes)[None] > np.array(NMS_THRESHOLDS)[:, None, None]
    alive = np.ones(over.shape[:2], dtype=np.bool_)
    strictest = 0
    for row in range(len(order)):
        if alive[0, row]:
            strictest += 1
            if strictest == rule.max_boxes:
                alive[0, row + 1 :] = False
                break
        # Rows before this one are settled and stay as they are.
        alive[:, row + 1 :] &= ~(over[:, row, row + 1 :] & alive[:, row, None])
    enough = np.flatnonzero(alive.sum(axis=1) >= rule.min_boxes)
    chosen = int(enough[0]) if len(enough) else len(NMS_THRESHOLDS) - 1
    rows = np.flatnonzero(alive[chosen])
    confident = int((sorted_scores[rows] > rule.confidence_threshold).sum())
    return order[rows[: min(max(confident, rule.min_boxes), rule.max_boxes)]], NMS_THRESHOLDS[chosen]
