"""Images of several sizes in one batch, each as if it were alone.

A batch has the size of its frame, which every image fills from its upper left corner. A convolution wider than a pixel
sees zeros beyond an image that is alone. So what lies outside each image is set to zero before every such layer, and
its sums are those of the image alone. Frames have few sizes, because every new one costs the libraries a search for
algorithms.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from extractor.gpu.transfer import upload

SIDES = (320, 480, 640, 800, 960, 1088, 1216, 1344)
"""Sides of frames in network pixels: 800 and what common aspect ratios make of it (1:1, 4:3, 3:2, 16:9) among them."""

Size = tuple[int, int]
"""Height and width."""


def frame(sizes: Sequence[Size]) -> Size:
    """The smallest frame for images of these sizes."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    return _side(height), _side(width)


def _side(length: int) -> int:
    return next((side for side in SIDES if side >= length), -(-length // SIDES[0]) * SIDES[0])


class Extents:
    """How far each image of a batch reaches on maps of one stride."""

    def __init__(self, sizes: Sequence[Size], device: torch.device) -> None:
        self.sizes = sizes
        self.lowest, self.narrowest = (min(side) for side in zip(*sizes, strict=True))
        limits = upload(torch.tensor(sizes), device)
        self.heights, self.widths = limits[:, 0, None], limits[:, 1, None]

    def clear(self, maps: Tensor) -> Tensor:
        """The maps [B, C, H, W] with zeros outside of every image, in place; only strips where one ends are written."""
        height, width = maps.shape[2:]
        if self.narrowest < width:
            outside = torch.arange(self.narrowest, width, device=maps.device) >= self.widths
            maps[..., self.narrowest :].masked_fill_(outside[:, None, None, :], 0)
        if self.lowest < height:
            outside = torch.arange(self.lowest, height, device=maps.device) >= self.heights
            maps[:, :, self.lowest :].masked_fill_(outside[:, None, :, None], 0)
        return maps

    def inside(self, height: int, width: int) -> Tensor:
        """Which cells of a map of this size are an image's own: bool [B, H, W]."""
        down = torch.arange(height, device=self.heights.device) < self.heights
        across = torch.arange(width, device=self.widths.device) < self.widths
        return down[:, :, None] & across[:, None, :]
