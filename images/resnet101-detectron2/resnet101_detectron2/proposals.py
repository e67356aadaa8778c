"""Region proposals of a batch, by detectron2's rules, on the device that has the RPN's outputs.

detectron2's own function looks at the numbers of every image (which are finite, which boxes have an area, how many
survive), and each look stops a GPU.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor
from torch.nn import functional

from extractor.gpu.frames import Extents
from extractor.gpu.suppression import at_most, greedy, ranked
from resnet101_detectron2.heads import clipped, decode
from resnet101_detectron2.selection import overlaps

BLOCK = 1024
"""Boxes among which suppression is computed together; those before count by the few that are kept."""


class Proposals(NamedTuple):
    """Boxes [B, 300, 4] in network pixels, best first, of which `valid` [B, 300] are proposals; `settled` [B]."""

    boxes: Tensor
    valid: Tensor
    settled: Tensor


class Proposer:
    """A network's RPN behind its convolutions."""

    def __init__(self, rpn: RPN) -> None:
        (self.cells,) = rpn.anchor_generator.cell_anchors
        (self.stride,) = rpn.anchor_generator.strides
        self.weights = rpn.box2box_transform.weights
        self.before, self.after = (count[False] for count in (rpn.pre_nms_topk, rpn.post_nms_topk))
        self.threshold = rpn.nms_thresh
        self.anchors = lru_cache(maxsize=64)(self._anchors)

    def __call__(self, logits: Tensor, deltas: Tensor, cells: Extents, sizes: Tensor, rounds: int | None) -> Proposals:
        """Proposals from the RPN's maps, logits [B, A, H, W] and deltas [B, 4A, H, W].

        `cells` says how far each image reaches on them, `sizes` [B, 2] its width and height in network pixels.
        `rounds`: see `extractor.gpu.suppression.greedy`.
        """
        images, _, height, width = logits.shape
        # Flat order (y, x, anchor); equal scores keep it.
        scores = logits.masked_fill(~cells.inside(height, width)[:, None], -torch.inf)
        scores = scores.permute(0, 2, 3, 1).flatten(1)
        scores, index = scores.sort(dim=1, descending=True, stable=True)
        scores, index = scores[:, : self.before], index[:, : self.before]
        deltas = deltas.view(images, -1, 4, height, width).permute(0, 3, 4, 1, 2).reshape(images, -1, 4)
        deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = decode(deltas, self.anchors(height, width)[index], self.weights)
        valid = boxes.isfinite().all(dim=2) & scores.isfinite()
        boxes = clipped(boxes, sizes)
        valid &= (boxes[..., 2:] - boxes[..., :2] > 0).all(dim=2)
        # What is no proposal has no area, and suppresses nothing.
        return survivors(boxes.masked_fill(~valid[..., None], 0), valid, self.threshold, self.after, rounds)

    def _anchors(self, height: int, width: int) -> Tensor:
        """[H * W * A, 4] in network pixels."""
        y, x = (
            torch.arange(0, count * self.stride, self.stride, dtype=torch.float32, device=self.cells.device)
            for count in (height, width)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((x, y, x, y), dim=-1)
        anchors: Tensor = shifts[:, :, None] + self.cells
        return anchors.view(-1, 4)


def survivors(boxes: Tensor, valid: Tensor, threshold: float, limit: int, rounds: int | None) -> Proposals:
    """The first `limit` of the valid boxes [B, N, 4], best first, that greedy suppression above an IoU keeps."""
    images = len(boxes)
    threshold = at_most(threshold)
    kept = boxes.new_zeros(images, limit, 4)
    count = torch.zeros(images, dtype=torch.int64, device=boxes.device)
    settled = torch.ones(images, dtype=torch.bool, device=boxes.device)
    for some, allowed in zip(torch.split(boxes, BLOCK, dim=1), torch.split(valid, BLOCK, dim=1), strict=True):
        free = allowed & ~(overlaps(kept, some) > threshold).any(dim=1)
        over = (overlaps(some, some) > threshold).triu_(diagonal=1) & free[:, :, None]
        alive, done = greedy(over, rounds)
        alive &= free
        settled &= done | (count >= limit)  # what comes behind the last that is wanted need not be settled
        first, found = ranked(torch.arange(some.shape[1], device=boxes.device).expand(images, -1), alive, limit)
        place = count[:, None] + torch.arange(limit, device=boxes.device)
        place = place.where(torch.arange(limit, device=boxes.device) < found[:, None], limit).clamp(max=limit)
        chosen = some.gather(1, first[..., None].expand(-1, -1, 4))
        kept = functional.pad(kept, (0, 0, 0, 1)).scatter(1, place[..., None].expand(-1, -1, 4), chosen)[:, :limit]
        count = (count + found).clamp(max=limit)
    return Proposals(kept, torch.arange(limit, device=boxes.device) < count[:, None], settled)
