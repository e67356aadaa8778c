"""RoIAlign on CPUs, level by level from channels-last maps as they lie in memory."""

import torch
from torch import Tensor

from resnext101_mmf.config import BoxHead
from resnext101_mmf.gathering import Grid, gather


def gathered(head: BoxHead, pyramid: list[Tensor], levels: Tensor, rois: Tensor) -> Tensor:
    """`network.aligned` from channels-last maps, the channels of a cell together: [R, side * side, channels]."""
    cells = head.pooler_resolution**2
    pooled = pyramid[0].new_empty((len(rois), cells, pyramid[0].shape[1]))
    for level, scale in enumerate(head.pooler_scales):
        rows = torch.nonzero(levels == level).squeeze(1)
        pooled[rows] = _level(head, pyramid[level], scale, rois[rows])
    return pooled


def _level(head: BoxHead, maps: Tensor, scale: float, rois: Tensor) -> Tensor:
    channels, height, width = maps.shape[1:]
    sides = (torch.full((len(rois),), side) for side in (height, width))
    grid = Grid(scale, rois[:, 0].long() * (height * width), width, *sides)
    return gather(head, maps.permute(0, 2, 3, 1).reshape(-1, channels), rois[:, 1:], grid)
