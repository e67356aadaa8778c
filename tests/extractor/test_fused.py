"""A convolution with what follows it, as cuDNN's fused operations are asked for it; emulated, there is no GPU here."""

import pytest
import torch
from torch import nn

from extractor.gpu import fused


def cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups):
    """What cuDNN computes, from torch's documentation of the operation's arguments."""
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()


def cudnn_convolution_add_relu(x, weight, z, alpha, bias, stride, padding, dilation, groups):
    found = torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return (found + alpha * z).relu()


@pytest.fixture
def cudnn(monkeypatch):
    monkeypatch.setattr(torch, "cudnn_convolution_relu", cudnn_convolution_relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", cudnn_convolution_add_relu)


CONVOLUTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 4},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 7, "padding": 3, "stride": 2},
]


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("arguments", CONVOLUTIONS)
@pytest.mark.parametrize("shortcut", [False, True])
def test_fused_or_not_the_result_is_the_same(arguments: dict[str, int], shortcut: bool):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, **arguments)
    x = torch.randn(2, 8, 15, 18)
    expected = conv(x)
    added = torch.randn_like(expected) if shortcut else None
    expected = (expected if added is None else expected + added).relu()
    for fuse in (False, True):
        conv.fused = fuse  # type: ignore[assignment]  # torch declares a module's attributes as tensors and modules
        found = fused.relu_conv(conv, x, None if added is None else added.clone())
        torch.testing.assert_close(found, expected)


def test_a_shortcut_keeps_its_numbers():
    """The block's input may be looked at again."""
    conv, x, shortcut = nn.Conv2d(4, 4, 1), torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)
    before = shortcut.clone()
    fused.relu_conv(conv, x, shortcut)
    assert torch.equal(shortcut, before)


@pytest.mark.parametrize(("milliseconds", "pays"), [(1.0, True), (1.19, True), (1.21, False)])
def test_a_fused_kernel_that_is_much_slower_is_left(monkeypatch, milliseconds: float, pays: bool):
    monkeypatch.setattr(fused, "_milliseconds", lambda run, *_: milliseconds if run is fused._fused else 1.0)
    assert fused._pays(nn.Conv2d(4, 4, 1), torch.contiguous_format) is pays


def test_what_cudnn_has_no_kernel_for_is_computed_apart(monkeypatch):
    def none(*_):
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(fused, "_milliseconds", none)
    assert not fused._pays(nn.Conv2d(4, 4, 1), torch.contiguous_format)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_fault_of_the_gpu_is_none_of_cudnn_s(monkeypatch, kind: type[RuntimeError]):
    def fault(*_):
        raise kind("CUDA error")

    monkeypatch.setattr(fused, "_milliseconds", fault)
    with pytest.raises(kind):
        fused._pays(nn.Conv2d(4, 4, 1), torch.contiguous_format)


def test_on_a_cpu_nothing_is_fused():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    fused.fuse(network, torch.contiguous_format)
    assert not getattr(network[0], "fused", False)
