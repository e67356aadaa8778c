"""Region proposals by the rules of maskrcnn-benchmark: anchors, decoding, suppression per level, the best over all
levels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from resnext101_mmf.config import Rpn
from resnext101_mmf.network import Maps
from resnext101_mmf.nms import survivors

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest dw and dh: a side grows at most 62.5 times."""

CANONICAL_LEVEL, CANONICAL_SIDE = 4, 224
"""A box of 224 x 224 network pixels is pooled from P4 (Feature Pyramid Networks, equation 1)."""


class Proposals(NamedTuple):
    """One image's proposals, best first: boxes [N, 4] in pixels of the padded input, objectness [N]."""

    boxes: Tensor
    objectness: Tensor


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

    def __call__(self, maps: Maps, height: int, width: int) -> list[Proposals]:
        """The proposals of each image of a batch whose padded input is `height` x `width` pixels."""
        boxes, scores = zip(*(self._level(maps, level, height, width) for level in range(len(self.cells))), strict=True)
        every, objectness = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
        objectness, order = objectness.sort(dim=1, descending=True, stable=True)
        top = self.config.fpn_post_nms_top_n_test
        counts = (objectness[:, :top] >= 0).sum(dim=1).tolist()
        return [
            Proposals(every[image, order[image, :count]], objectness[image, :count])
            for image, count in enumerate(counts)
        ]

    def _level(self, maps: Maps, level: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Boxes [B, K, 4] of one level, best first, and their objectness [B, K], -1 where suppressed."""
        config = self.config
        logits, deltas = maps.objectness[level].float(), maps.deltas[level].float()
        images, _, rows, columns = logits.shape
        # Flat order (y, x, anchor); equal scores keep it.
        objectness = logits.permute(0, 2, 3, 1).reshape(images, -1).sigmoid()
        objectness, index = objectness.sort(dim=1, descending=True, stable=True)
        objectness, index = (part[:, : config.pre_nms_top_n_test] for part in (objectness, index))
        deltas = deltas.permute(0, 2, 3, 1).reshape(images, -1, 4)
        deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = decode(self._anchors(level, rows, columns)[index], deltas)
        limits = torch.tensor([width - 1, height - 1], dtype=boxes.dtype, device=boxes.device).repeat(2)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        kept = survivors(boxes, config.nms_thresh)
        kept &= kept.cumsum(dim=1) <= config.post_nms_top_n_test
        return boxes, objectness.where(kept, -1.0)

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
    level = torch.floor(CANONICAL_LEVEL + torch.log2(area.sqrt() / CANONICAL_SIDE + 1e-6))
    lowest, highest = (-math.log2(scale) for scale in (scales[0], scales[-1]))
    return (level.clamp(lowest, highest) - lowest).long()
