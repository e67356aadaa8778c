"""res5 on pooled RoIs on a CPU, where nearly all of an image's time goes.

Cells lie one after the other with their channels together, so that 1x1 convolutions are plain matrix products. The
first block's run on distinct pooled rectangles only.
"""

import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn
from torch.nn import functional

from resnet101_detectron2.cpu.pooling import pool
from resnet101_detectron2.cpu.threads import Threads
from resnet101_detectron2.cpu.winograd import Winograd3x3
from resnet101_spec import SPEC

ROIS_AT_ONCE = 8
"""RoIs that a CPU's thread takes through all of res5 together: what its caches hold, and work for many threads."""


class RegionFeatures:
    """Region features by detectron2's res5, its norms folded; RoIs are spread over `threads`."""

    def __init__(self, res5: nn.Sequential, threads: Threads) -> None:
        self.blocks: list[BottleneckBlock] = list(res5)
        self.threads = threads
        # Winograd's transforms want the lines of all RoIs side by side, other convolutions one RoI after the other.
        self.roi_axis = 2 if isinstance(self.blocks[0].conv2, Winograd3x3) else 0

    def __call__(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """[R, 2048] float32 for one image's features [H, W, 1024] and its RoIs [R, 4] in network pixels."""
        if len(rois) == 0:
            return features.new_empty(0, SPEC.feature_width, dtype=torch.float32)
        pooled = pool(features, rois)
        bins = pooled.bins.movedim(2, self.roi_axis)
        shortcut = _pointwise(self.blocks[0].shortcut, pooled.cells)
        reduced = _pointwise(self.blocks[0].conv1, pooled.cells).relu_()

        def described(some: torch.Tensor) -> torch.Tensor:
            first, *others = self.blocks
            x = _finish(first, shortcut[some.flatten()], reduced[some])
            for block in others:
                x = _finish(block, x, _pointwise(block.conv1, x).relu_().view(*some.shape, -1))
            places = tuple(axis for axis in range(3) if axis != self.roi_axis)
            return x.view(*some.shape, -1).mean(dim=places, dtype=torch.float32)

        return torch.cat(self.threads.map(described, torch.split(bins, ROIS_AT_ONCE, dim=self.roi_axis)))


def _pointwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, conv.weight.flatten(1), conv.bias)


def _finish(block: BottleneckBlock, x: torch.Tensor, reduced: torch.Tensor) -> torch.Tensor:
    """The block's output [M, out] from its shortcut's [M, out], whose memory it takes, and its first convolution's."""
    if isinstance(block.conv2, Winograd3x3):
        middle = block.conv2.maps(reduced)
    else:
        middle = block.conv2(reduced.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    middle = middle.relu_().flatten(0, 2)
    return x.addmm_(middle, block.conv3.weight.flatten(1).T).add_(block.conv3.bias).relu_()
