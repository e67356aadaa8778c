"""Non-maximum suppression as vqa-maskrcnn-benchmark's CPU kernel does it.

Sides and overlaps count pixels (x2 - x1 + 1), and an IoU of exactly the threshold suppresses. The reference's CUDA
kernel lets exactly the threshold pass; here both devices follow the CPU's rule.
"""

import torch
from torch import Tensor


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


def survivors(boxes: Tensor, threshold: float) -> Tensor:
    """Which of the boxes [..., N, 4], best first, greedy suppression keeps: bool [..., N].

    Greedy suppression is the only assignment in which a box is kept exactly if no better kept box overlaps it. The
    iteration starts from all kept; each round settles at least the next undecided box of every list, in practice a
    chain of suppressions each.
    """
    size = boxes.shape[-2]
    suppresses = overlapping(boxes, boxes, threshold).triu_(diagonal=1)
    kept = torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    for _ in range(size):
        settled = ~(suppresses & kept[..., :, None]).any(dim=-2)
        if torch.equal(settled, kept):
            break
        kept = settled
    return kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
