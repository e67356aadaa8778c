"""Frozen batch norm taken into the convolution before it."""

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Give every convolution with a frozen norm the weights and bias that both together amount to, in double."""
    for module in network.modules():
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            weight = module.weight.double() * scale.view(-1, 1, 1, 1)
            module.weight = nn.Parameter(weight.float(), requires_grad=False)
            module.bias = nn.Parameter(shift.float(), requires_grad=False)
            module.register_module("norm", None)
