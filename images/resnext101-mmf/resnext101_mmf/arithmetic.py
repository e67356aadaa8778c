"""How a network computes on its device: in fp32 its body bit for bit as the reference's, the rest faster and otherwise
rounded."""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from extractor.core import memory
from extractor.core.backbone_specs import Precision
from resnext101_mmf.batched import by_channel
from resnext101_mmf.config import BoxHead
from resnext101_mmf.cpu.gathered import gathered
from resnext101_mmf.cpu.winograd import Winograd
from resnext101_mmf.network import Network

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


def memory_format(precision: Precision) -> torch.memory_format:
    """The layout in which activations are computed. fp32's is the reference's, since oneDNN sums in another order in
    the other."""
    return torch.contiguous_format if precision is Precision.FP32 else torch.channels_last


def arrange(network: Network, head: BoxHead, device: torch.device, precision: Precision, *, batched: bool) -> Network:
    """Put the network on its device, in place.

    On a CPU in fp32 the body keeps every rounding of the reference: its hundred layers amplify each, and whatever order
    of sums they take moves a class probability by up to 2e-4. What follows the body does not amplify. A GPU has sums of
    its own order, and any other precision frees the body's too: norms are folded into convolutions. On a CPU, which has
    no TF32, what follows the body is computed in channels-last fp32, by ways of its own.

    Sets for the whole process whether a GPU may round fp32 operands to TF32, and on a CPU that freed memory is kept.
    """
    if precision is Precision.FP32 and not batched:
        _replace_norms(network)
    else:
        _fold_norms(network)
    network.to(device, DTYPES[precision]).to(memory_format=memory_format(precision))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision is Precision.TF32
    if device.type == "cpu":
        memory.keep_freed()
        if DTYPES[precision] is torch.float32 and not batched:
            _rearrange_heads(network, head)
    return network


class InPlaceNorm(nn.Module):
    """A frozen batch norm that overwrites its input, with the same two roundings as torchvision's."""

    scale: Tensor
    bias: Tensor

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("bias", (norm.bias - norm.running_mean * scale)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same tensor."""
        return x.mul_(self.scale).add_(self.bias)


def _replace_norms(network: Network) -> None:
    for owner in list(network.modules()):
        for name, child in owner.named_children():
            if isinstance(child, FrozenBatchNorm2d):
                owner.register_module(name, InPlaceNorm(child))


def _fold_norms(network: Network) -> None:
    _fold(network.body, "conv1", "bn1")
    for block in network.body.modules():
        if isinstance(block, Bottleneck):
            for i in (1, 2, 3):
                _fold(block, f"conv{i}", f"bn{i}")
            if block.downsample is not None:
                _fold(block.downsample, "0", "1")


def _fold(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a norm into the convolution before it; computed in double, so that each weight is rounded once."""
    conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, FrozenBatchNorm2d):
        raise TypeError(f"{conv_name} is {type(conv).__name__}, {norm_name} is {type(norm).__name__}")
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * scale
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    owner.register_module(norm_name, nn.Identity())


def _rearrange_heads(network: Network, head: BoxHead) -> None:
    """Pyramid, RPN and RoI head with the channels of a pixel together.

    The wide dense convolutions, half of the detector's multiplications, are Winograd's; RoIs are gathered.
    """
    for part in (network.fpn, network.rpn):
        part.to(memory_format=torch.channels_last)
    network.fpn.register_forward_pre_hook(_channels_last)
    for owner in [*network.fpn.layer_blocks, network.rpn.conv[0]]:
        owner.register_module("0", Winograd(owner.get_submodule("0")))
    network.pool = partial(gathered, head)
    by_channel(network, head)


def _channels_last(_fpn: nn.Module, stages: tuple[dict[str, Tensor]]) -> tuple[dict[str, Tensor]]:
    return ({name: x.contiguous(memory_format=torch.channels_last) for name, x in stages[0].items()},)
