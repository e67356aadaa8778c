"""RoIAlign on CPUs as weighted sums of pixels, whose channels lie together: an embedding bag, in torch's words.

Each cell of a RoI is a mean of samples, each sample an interpolation between four pixels: a weighted sum of few rows of
the [pixels, channels] matrix that a channels-last map is. torchvision's own loop visits the channels one by one, on one
core.
"""

import torch
from torch import Tensor
from torch.nn import functional

from resnext101_mmf.config import BoxHead


def gathered(head: BoxHead, pyramid: list[Tensor], levels: Tensor, rois: Tensor) -> Tensor:
    """`network.aligned` from channels-last maps, the channels of a cell together: [R, side * side, channels]."""
    cells = head.pooler_resolution**2
    pooled = pyramid[0].new_empty((len(rois), cells, pyramid[0].shape[1]))
    for level, scale in enumerate(head.pooler_scales):
        rows = torch.nonzero(levels == level).squeeze(1)
        pooled[rows] = _level(head, pyramid[level], scale, rois[rows])
    return pooled


def _level(head: BoxHead, pixels: Tensor, scale: float, rois: Tensor) -> Tensor:
    side, samples = head.pooler_resolution, head.pooler_sampling_ratio
    channels, height, width = pixels.shape[1:]
    corners = rois[:, 1:] * scale
    sizes = (corners[:, 2:] - corners[:, :2]).clamp(min=1)
    columns, across = _taps(corners[:, 0], sizes[:, 0], side, samples, width)
    lines, down = _taps(corners[:, 1], sizes[:, 1], side, samples, height)
    image = rois[:, 0].long()[:, None, None, None, None] * (height * width)
    places = image + lines[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :] / samples**2
    bags = (len(rois) * side**2, (2 * samples) ** 2)
    sums = functional.embedding_bag(
        places.reshape(bags),
        pixels.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weights.reshape(bags),
        mode="sum",
    )
    return sums.view(len(rois), side**2, channels)


def _taps(start: Tensor, size: Tensor, side: int, samples: int, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the pixels that each cell's samples lie between, and their weights: both [R, side, 2 * samples].

    Samples outside (-1, length) count as 0, others are clamped to the border.
    """
    cell = (size / side)[:, None, None]
    at = start[:, None, None] + torch.arange(side)[:, None] * cell + (torch.arange(samples) + 0.5) * cell / samples
    inside = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor()
    high = (low + 1).clamp(max=length - 1)
    part = at - low
    places = torch.cat([low, high], dim=2).long()
    return places, torch.cat([(1 - part) * inside, part * inside], dim=2)
