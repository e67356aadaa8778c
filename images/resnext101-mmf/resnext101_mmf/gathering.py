"""RoIAlign as weighted sums of pixels, whose channels lie together: an embedding bag, in torch's words.

Each cell of a RoI is a mean of samples, each sample an interpolation between four pixels: a weighted sum of few rows of
the [pixels, channels] matrix that a channels-last map is. torchvision's operator wants each level's RoIs by themselves,
and on a CPU visits the channels one by one, on one core.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from extractor.gpu.transfer import upload
from resnext101_mmf.config import BoxHead


class Grid(NamedTuple):
    """Where each RoI's pixels lie in the matrix: numbers [R], or one for all."""

    scale: Tensor | float
    """Map pixels per network pixel."""
    first: Tensor
    """The image's first pixel."""
    stride: Tensor | int
    """Pixels from one line to the next."""
    height: Tensor
    """Of the image on its map; what the map holds beyond it is not looked at."""
    width: Tensor


def gather(head: BoxHead, pixels: Tensor, boxes: Tensor, grid: Grid) -> Tensor:
    """RoIs with legacy alignment (no half-pixel shift): [R, side * side, channels] of boxes [R, 4] in network pixels.

    `pixels` [pixels, channels] are the maps, in float32.
    """
    side, samples = head.pooler_resolution, head.pooler_sampling_ratio
    corners = boxes * (grid.scale[:, None] if isinstance(grid.scale, Tensor) else grid.scale)
    sizes = (corners[:, 2:] - corners[:, :2]).clamp(min=1)
    columns, across = _taps(corners[:, 0], sizes[:, 0], side, samples, grid.width)
    lines, down = _taps(corners[:, 1], sizes[:, 1], side, samples, grid.height)
    stride = grid.stride[:, None, None] if isinstance(grid.stride, Tensor) else grid.stride
    lines = lines * stride + grid.first[:, None, None]
    places = lines[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :] / samples**2  # a power of two
    bags = (len(boxes) * side**2, (2 * samples) ** 2)
    sums = functional.embedding_bag(places.reshape(bags), pixels, per_sample_weights=weights.reshape(bags), mode="sum")
    return sums.view(len(boxes), side**2, pixels.shape[1])


def _taps(start: Tensor, size: Tensor, side: int, samples: int, length: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis, the pixels that each cell's samples lie between, and their weights: both [R, side, 2 * samples].

    Samples outside (-1, length) count as 0, others are clamped to the border.
    """
    length = length[:, None, None]
    cell = (size / torch.full((), float(side), device=size.device))[:, None, None]
    steps = torch.arange(side, device=size.device)[:, None] * cell
    at = start[:, None, None] + steps + (torch.arange(samples, device=size.device) + 0.5) * cell / samples
    inside = (at >= -1) & (at <= length)
    at = torch.minimum(at.clamp(min=0), length - 1)
    low = at.floor()
    high = torch.minimum(low + 1, length - 1)
    part = at - low
    places = torch.cat([low, high], dim=2).long()
    return places, torch.cat([(1 - part) * inside, part * inside], dim=2)


class Pyramid:
    """The pooled levels of a batch's maps as one matrix, from which RoIs of any level and image are gathered."""

    def __init__(self, head: BoxHead, maps: Sequence[Tensor], sizes: Tensor) -> None:
        """`maps`: each level's [B, C, H, W]; `sizes` [levels, B, 2]: how far each image reaches, height and width."""
        self.head = head
        device, channels = maps[0].device, maps[0].shape[1]
        pixels = [images * height * width for images, _, height, width in (level.shape for level in maps)]
        self.pixels = torch.empty(sum(pixels), channels, device=device)
        for place, level in zip(torch.split(self.pixels, pixels), maps, strict=True):
            place.view(level.shape[0], *level.shape[2:], channels).copy_(level.permute(0, 2, 3, 1))
        self.sizes = sizes
        starts = [sum(pixels[:level]) for level in range(len(maps))]
        places = [(start, level[0, 0].numel(), level.shape[3]) for start, level in zip(starts, maps, strict=True)]
        self.places = upload(torch.tensor(places), device)
        self.scales = upload(torch.tensor(head.pooler_scales), device)

    def __call__(self, levels: Tensor, rois: Tensor) -> Tensor:
        """[R, side * side, C] float32 for RoIs [R, 5] (image's place in the batch, box), each from its level [R]."""
        images = rois[:, 0].long()
        start, area, stride = self.places[levels].unbind(dim=1)
        height, width = self.sizes[levels, images].unbind(dim=1)
        grid = Grid(self.scales[levels], start + images * area, stride, height, width)
        return gather(self.head, self.pixels, rois[:, 1:], grid)
