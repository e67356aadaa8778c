"""Frozen batch norm taken into the convolution before it."""

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Replace every frozen norm that follows a convolution by that convolution's weights and bias, computed in double."""
    for module in network.modules():
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            module.weight = nn.Parameter((module.weight.double() * scale.view(-1, 1, 1, 1)).float(), requires_grad=False)
            module.bias = nn.Parameter(shift.float(), requires_grad=False)
            module.norm = None
