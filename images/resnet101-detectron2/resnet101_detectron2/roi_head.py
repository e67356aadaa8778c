"""res5 on pooled RoIs, where nearly all of an image's time goes.

Cells lie one after the other with their channels together, so that 1x1 convolutions are plain matrix products. The first
block's run on distinct pooled rectangles only.
"""

import torch
from torch import nn
from torch.nn import functional

from resnet101_detectron2.pooling import pool
from resnet101_detectron2.winograd import Winograd3x3

ROIS_ON_CPU, ROIS_ON_GPU = 16, 300
"""RoIs that run through all of res5 together: on a CPU as many as its cache holds, on a GPU a whole image's."""


class RegionFeatures:
    """Region features by detectron2's res5, its norms folded. `at_once` RoIs are computed together."""

    def __init__(self, res5: nn.Sequential, device: torch.device, at_once: int | None = None) -> None:
        self.blocks = list(res5)
        self.at_once = at_once or (ROIS_ON_CPU if device.type == "cpu" else ROIS_ON_GPU)
        # Winograd's transforms want the lines of all RoIs side by side, other convolutions one RoI after the other.
        self.roi_axis = 2 if isinstance(self.blocks[0].conv2, Winograd3x3) else 0

    def __call__(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """[R, 2048] float32 for one picture's features [H, W, 1024] and its RoIs [R, 4] in network pixels."""
        first, *others = self.blocks
        pooled = pool(features, rois)
        shortcut = _pointwise(first.shortcut, pooled.cells)
        reduced = _pointwise(first.conv1, pooled.cells).relu_()
        bins = pooled.bins.movedim(2, self.roi_axis)
        described = [features.new_empty(0, shortcut.shape[1], dtype=torch.float32)]
        for some in bins.split(self.at_once, dim=self.roi_axis):
            x = _finish(first, shortcut[some.flatten()], reduced[some])
            for block in others:
                x = _finish(block, x, _pointwise(block.conv1, x).relu_().view(*some.shape, -1))
            places = tuple(axis for axis in range(3) if axis != self.roi_axis)
            described.append(x.view(*some.shape, -1).mean(dim=places, dtype=torch.float32))
        return torch.cat(described)


def _pointwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, conv.weight.flatten(1), conv.bias)


def _finish(block: nn.Module, x: torch.Tensor, reduced: torch.Tensor) -> torch.Tensor:
    """The block's output [M, out] from its shortcut's [M, out], whose memory it takes, and its first convolution's."""
    if isinstance(block.conv2, Winograd3x3):
        middle = block.conv2.maps(reduced)
    else:
        middle = block.conv2(reduced.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    middle = middle.relu_().flatten(0, 2)
    return x.addmm_(middle, block.conv3.weight.flatten(1).T).add_(block.conv3.bias).relu_()
