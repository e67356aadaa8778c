"""Which boxes of an image are kept: class-agnostic, by each proposal's best class, thinned by NMS.

Everything is computed for a batch of images at once, on the device that has them.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from extractor.core.backbone_specs import Rule
from extractor.gpu.suppression import at_most, greedy, ranked

NMS_THRESHOLDS = tuple(float(threshold) for threshold in np.arange(0.5, 1.0, 0.1))
"""IoU above which the weaker box goes; the next is tried when too few are left. The last bits are the reference's."""


class Selected(NamedTuple):
    """Of each image of a batch."""

    rows: Tensor
    """Kept rows, best score first: int64 [B, max_boxes], 0 beyond their number."""
    kept: Tensor
    """Their number, [B]."""
    threshold: Tensor
    """The place in NMS_THRESHOLDS of the one that gave them, [B]."""
    settled: Tensor
    """Whether more rounds of suppression would change nothing: bool [B]."""


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes [..., N, 4] with others [..., M, 4] in float32, without the +1 of older code; NaN where neither has
    an area, which exceeds no threshold."""
    low = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    sides = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:]).sub_(low).clamp_(min=0)
    inner = sides[..., 0] * sides[..., 1]
    return inner / (_area(boxes)[..., :, None] + _area(others)[..., None, :] - inner)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def select(boxes: Tensor, scores: Tensor, valid: Tensor, rule: Rule, rounds: int | None = None) -> Selected:
    """Rows to keep of boxes [B, N, 4] with scores [B, N], of which `valid` [B, N] count.

    The thresholds 0.5, 0.6 … 0.9 are tried until at least `min_boxes` boxes survive one of them; of the survivors,
    those scoring above `confidence_threshold` are kept, at least `min_boxes` and at most `max_boxes` of them, best
    first. With minimum and maximum both 36 the confidence never matters, and this is the procedure of IGLUE's 36-box
    extraction; with 10 and 100 it is the adaptive rule of Anderson et al., "Bottom-Up and Top-Down Attention" (2018),
    on the same NMS. An image that cannot reach the minimum keeps what survives the last threshold.

    `rounds`: see `extractor.gpu.suppression.greedy`.
    """
    scores = scores.masked_fill(~valid, -1.0)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    valid = valid.gather(1, order)
    boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    iou = overlaps(boxes, boxes).masked_fill_(~valid[:, :, None], 0).triu_(diagonal=1)
    over = torch.stack([iou > at_most(threshold) for threshold in NMS_THRESHOLDS], dim=1)
    kept, settled = greedy(over, rounds)
    kept &= valid[:, None]
    enough = kept.sum(dim=2) >= rule.min_boxes
    failed = (~enough[:, :-1]).long().cumprod(dim=1).sum(dim=1)
    kept = kept.gather(1, failed[:, None, None].expand(-1, 1, kept.shape[2]))[:, 0]
    confident = (kept & (scores > rule.confidence_threshold)).sum(dim=1)
    limit = confident.clamp(rule.min_boxes, rule.max_boxes)
    kept &= kept.cumsum(dim=1) <= limit[:, None]
    rows, count = ranked(order, kept, rule.max_boxes)
    return Selected(rows, count, failed, settled.all(dim=1))
