"""A convolution with its bias, what is added to it and its ReLU in one pass over memory, where cuDNN does that.

Half of a ResNeXt's time on a GPU goes into passes over memory that add a number or cut at zero. cuDNN can do these
while it writes a convolution's result. It cannot for every shape and number type, nor always fast: each kind of
convolution is tried once, when the network is loaded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from extractor.log import log

TRIED_ON = (2, 64, 88)
"""Batch, height and width of the maps on which a kind is tried."""

SLOWER = 1.2
"""A fused kernel that takes longer than this many times the separate ones is left."""


def relu_conv(conv: nn.Conv2d, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """ReLU of a convolution with bias, the shortcut added before it: [B, C, H, W]."""
    if getattr(conv, "fused", False):
        return _fused(conv, x, shortcut)
    return _separate(conv, x, shortcut)


def _separate(conv: nn.Conv2d, x: Tensor, shortcut: Tensor | None) -> Tensor:
    found = torch.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if shortcut is not None:
        found += shortcut
    return found.relu_()


def _fused(conv: nn.Conv2d, x: Tensor, shortcut: Tensor | None) -> Tensor:
    steps: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if shortcut is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *steps)
    return torch.cudnn_convolution_add_relu(x, conv.weight, shortcut, 1.0, conv.bias, *steps)


@torch.inference_mode()
def fuse(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Find out which of a module's convolutions `relu_conv` is to compute fused; on a GPU only, with its weights."""
    kinds: dict[tuple[object, ...], bool] = {}
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.is_cuda and conv.bias is not None:
            kind = (conv.weight.shape, conv.stride, conv.padding, conv.dilation, conv.groups, conv.weight.dtype)
            if kind not in kinds:
                kinds[kind] = _pays(conv, memory_format)
            conv.fused = kinds[kind]  # type: ignore[assignment]
    if kinds:
        log.info("convolutions fused with what follows them", kinds=sum(kinds.values()), of=len(kinds))


def _pays(conv: nn.Conv2d, memory_format: torch.memory_format) -> bool:
    batch, height, width = TRIED_ON
    x = conv.weight.new_zeros(batch, conv.in_channels, height, width).contiguous(memory_format=memory_format)
    shortcut = _separate(conv, x, None)
    try:
        return _milliseconds(_fused, conv, x, shortcut) < SLOWER * _milliseconds(_separate, conv, x, shortcut)
    except torch.OutOfMemoryError:
        raise
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:  # cuDNN has no kernel for it
        log.info("not fused", convolution=str(conv), error=str(error).partition("\n")[0])
        return False


def _milliseconds(run: Callable[..., Tensor], conv: nn.Conv2d, x: Tensor, shortcut: Tensor) -> float:
    """The shortest of three runs after one that does not count."""
    spent = []
    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run(conv, x, shortcut)
        run(conv, x, None)
        end.record()
        end.synchronize()
        spent.append(float(start.elapsed_time(end)))
    return min(spent[1:])
