"""Region proposals by the rules of maskrcnn-benchmark: anchors, decoding, suppression per level, the best over all
levels."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from extractor.gpu.frames import Extents
from resnext101_mmf.config import Rpn
from resnext101_mmf.network import Maps
from resnext101_mmf.nms import survivors

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest dw and dh: a side grows at most 62.5 times."""

CANONICAL_LEVEL, CANONICAL_SIDE = 4, 224
"""A box of 224 x 224 network pixels is pooled from P4 (Feature Pyramid Networks, equation 1)."""


class Proposals(NamedTuple):
    """Proposals of a batch, each image's best first: boxes [B, N, 4] in pixels of the padded input."""

    boxes: Tensor
    objectness: Tensor
    """[B, N], -1 for what is no proposal."""
    settled: Tensor
    """Whether more rounds of suppression would change nothing: bool [B]."""

    def of(self, place: int) -> Tensor:
        """One image's boxes [K, 4]; a device is waited for."""
        return self.boxes[place, : int((self.objectness[place] >= 0).sum())]


def cell_anchors(size: int, stride: int, ratios: tuple[float, ...]) -> Tensor:
    """Anchors [ratios, 4] around the first cell of a level, after Detectron: rounded sides, and both corners belong to
    the box."""
    centre = (stride - 1) / 2
    boxes = []
    for ratio in ratios:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        half = [(side * size / stride - 1) / 2 for side in (width, height)]
        boxes.append([centre - half[0], centre - half[1], centre + half[0], centre + half[1]])
    return torch.tensor(boxes, dtype=torch.float32)


class Proposer:
    """Turns RPN outputs into proposals; `anchors` are a checkpoint's own, per level, where it has them."""

    def __init__(self, config: Rpn, anchors: list[Tensor | None], device: torch.device) -> None:
        self.config = config
        own = (
            cell_anchors(size, stride, config.aspect_ratios)
            for size, stride in zip(config.anchor_sizes, config.anchor_stride, strict=True)
        )
        self.cells = [
            (computed if given is None else given).to(device) for computed, given in zip(own, anchors, strict=True)
        ]
        self.anchors = lru_cache(maxsize=64)(self._anchors)

    def __call__(self, maps: Maps, extents: Sequence[Extents], sizes: Tensor, rounds: int | None = None) -> Proposals:
        """The proposals of each image of a batch whose padded inputs are `sizes` [B, 2] (width, height) in pixels.

        `extents`: how far each image reaches on the maps of each level. `rounds`: see
        `extractor.gpu.suppression.greedy`.
        """
        config = self.config
        levels = [self._level(maps, level, extents[level]) for level in range(len(self.cells))]
        most = max(scores.shape[1] for _, scores in levels)
        boxes = torch.stack([functional.pad(part, (0, 0, 0, most - part.shape[1])) for part, _ in levels], dim=1)
        objectness = torch.stack(
            [functional.pad(part, (0, most - part.shape[1]), value=-1) for _, part in levels], dim=1
        )
        boxes = torch.minimum(boxes.clamp(min=0), (sizes - 1).repeat(1, 2)[:, None, None])
        # What is no proposal comes last, and suppresses nothing else.
        kept, settled = survivors(boxes, config.nms_thresh, rounds)
        kept &= kept.cumsum(dim=2) <= config.post_nms_top_n_test
        objectness = objectness.where(kept, -1.0).flatten(1)
        objectness, order = objectness.sort(dim=1, descending=True, stable=True)
        order = order[:, : config.fpn_post_nms_top_n_test, None]
        boxes = boxes.flatten(1, 2).gather(1, order.expand(-1, -1, 4))
        return Proposals(boxes, objectness[:, : config.fpn_post_nms_top_n_test], settled.all(dim=1))

    def _level(self, maps: Maps, level: int, extent: Extents) -> tuple[Tensor, Tensor]:
        """Decoded boxes [B, K, 4] of one level, best first, and their objectness [B, K], -1 outside of an image."""
        logits, deltas = maps.objectness[level].float(), maps.deltas[level].float()
        images, _, rows, columns = logits.shape
        objectness = logits.sigmoid().masked_fill(~extent.inside(rows, columns)[:, None], -1)
        # Flat order (y, x, anchor); equal scores keep it.
        objectness = objectness.permute(0, 2, 3, 1).reshape(images, -1)
        objectness, index = objectness.sort(dim=1, descending=True, stable=True)
        objectness, index = (part[:, : self.config.pre_nms_top_n_test] for part in (objectness, index))
        deltas = deltas.permute(0, 2, 3, 1).reshape(images, -1, 4)
        deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        return decode(self.anchors(level, rows, columns)[index], deltas), objectness

    def _anchors(self, level: int, rows: int, columns: int) -> Tensor:
        cells, stride = self.cells[level], self.config.anchor_stride[level]
        y, x = (torch.arange(count, device=cells.device) * stride for count in (rows, columns))
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).to(cells.dtype)
        anchors: Tensor = shifts[:, :, None] + cells
        return anchors.reshape(-1, 4)


def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes [..., 4] from anchors and deltas, both [..., 4]; sides count pixels (x2 - x1 + 1)."""
    sides = anchors[..., 2:] - anchors[..., :2] + 1
    centres = anchors[..., :2] + 0.5 * sides
    centres = deltas[..., :2] * sides + centres
    sides = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * sides
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides - 1], dim=-1)


def pyramid_levels(boxes: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Which of the pooled levels, whose scales are given, each box [N, 4] is pooled from: int64 [N]."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    # Divided by a tensor: by a number, a GPU would multiply with its inverse, which rounds otherwise.
    side = torch.full((), float(CANONICAL_SIDE), device=boxes.device)
    level = torch.floor(CANONICAL_LEVEL + torch.log2(area.sqrt() / side + 1e-6))
    lowest, highest = (-math.log2(scale) for scale in (scales[0], scales[-1]))
    return (level.clamp(lowest, highest) - lowest).long()
