"""Non-maximum suppression as vqa-maskrcnn-benchmark's CPU kernel does it.

Sides and overlaps count pixels (x2 - x1 + 1), and an IoU of exactly the threshold suppresses. The reference's CUDA
kernel lets exactly the threshold pass; here both devices follow the CPU's rule.
"""

import torch
from torch import Tensor

from extractor.gpu.suppression import greedy


def overlapping(boxes: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Whether boxes [..., M, 4] overlap others [..., N, 4] at an IoU of `threshold` or more: bool [..., M, N]."""
    area, other_area = _area(boxes)[..., :, None], _area(others)[..., None, :]
    inner = [
        (torch.minimum(boxes[..., :, None, far], others[..., None, :, far])
         - torch.maximum(boxes[..., :, None, near], others[..., None, :, near]) + 1).clamp_(min=0)
        for near, far in ((0, 2), (1, 3))
    ]  # fmt: skip
    shared = inner[0].mul_(inner[1])
    return shared / (area + other_area - shared) >= threshold


def survivors(boxes: Tensor, threshold: float, rounds: int | None = None) -> tuple[Tensor, Tensor]:
    """Which of the boxes [..., N, 4], best first, greedy suppression keeps: bool [..., N]; see
    `extractor.gpu.suppression.greedy`, also for `rounds` and what else is returned."""
    return greedy(overlapping(boxes, boxes, threshold).triu_(diagonal=1), rounds)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
