"""Winograd's convolution against a direct one in double precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from resnet101_detectron2.cpu.threads import Threads
from resnet101_detectron2.cpu.winograd import Winograd3x3


@pytest.mark.parametrize(
    ("height", "width", "dilation"),
    [(14, 14, 2), (50, 84, 1), (1, 1, 1), (1, 7, 2), (3, 2, 2), (4, 4, 1), (5, 9, 1), (15, 13, 2), (11, 84, 3)],
)
def test_any_size_and_dilation(height: int, width: int, dilation: int):
    torch.manual_seed(height * 100 + width)
    conv = nn.Conv2d(64, 32, 3, padding=dilation, dilation=dilation).requires_grad_(False)
    x = torch.randn(3, 64, height, width).relu()
    exact = functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=dilation, dilation=dilation)
    torch.testing.assert_close(Winograd3x3(conv)(x).double(), exact, rtol=0, atol=2e-5)


def test_threads_change_no_bit():
    conv = nn.Conv2d(64, 32, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 64, 10, 13)
    assert torch.equal(Winograd3x3(conv)(x), Winograd3x3(conv, Threads())(x))


def test_the_activation_is_kept():
    conv = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
    conv.activation = nn.ReLU()
    assert (Winograd3x3(conv)(torch.randn(1, 8, 6, 6)) >= 0).all()


def test_a_convolution_whose_norm_is_not_folded_is_refused():
    with pytest.raises(ValueError, match="fold"):
        Winograd3x3(nn.Conv2d(8, 8, 3, padding=1, bias=False))
