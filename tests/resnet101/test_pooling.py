"""Pooling of distinct rectangles against torchvision's operator, to the last bit."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torchvision.ops import roi_pool

from resnet101_detectron2.cpu.pooling import bin_size, pool

# Multiples of 8 are the corners that rounding to cells of 16 pixels decides.
corner = st.one_of(st.integers(0, 40).map(lambda eighth: 8.0 * eighth), st.floats(0, 320, width=32))
roi = st.tuples(corner, corner, corner, corner).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]
)


def expected(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return roi_pool(features.permute(2, 0, 1)[None], [rois], output_size=14, spatial_scale=1 / 16).permute(2, 3, 0, 1)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.lists(roi, min_size=1, max_size=8))
def test_any_rois_pool_like_torchvision_s(height: int, width: int, corners: list[list[float]]):
    features = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(height * 32 + width))
    rois = torch.tensor(corners)
    pooled = pool(features, rois)
    assert torch.equal(pooled.cells[pooled.bins], expected(features, rois))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_rois_of_a_large_map(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(84, 50, 4, generator=generator).to(dtype)
    low = torch.rand(100, 2, generator=generator) * torch.tensor([700.0, 1200.0])
    high = low + torch.rand(100, 2, generator=generator) * torch.tensor([800.0, 1344.0])
    rois = torch.cat((low, torch.minimum(high, torch.tensor([800.0, 1344.0]))), dim=1)
    pooled = pool(features, rois)
    assert torch.equal(pooled.cells[pooled.bins].float(), expected(features.float(), rois))


def test_a_repeated_roi_adds_no_cells():
    features = torch.randn(10, 10, 2)
    one, two = pool(features, torch.tensor([[0.0, 0, 90, 90]])), pool(features, torch.tensor([[0.0, 0, 90, 90]] * 2))
    assert len(one.cells) == len(two.cells) < 14 * 14


def test_a_roi_beyond_the_last_cell_pools_to_zeros():
    pooled = pool(torch.ones(5, 5, 2), torch.tensor([[85.0, 0, 90, 40]]))
    assert not pooled.cells[pooled.bins].any()


class DividesLikeAGpu(TorchFunctionMode):
    """CUDA's division of a tensor by a number: a product with the inverse, which is rounded to the tensor's type."""

    divided = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.__truediv__, torch.Tensor.div, torch.div) and isinstance(args[1], int | float):
            self.divided += 1
            return args[0] * torch.ones((), dtype=args[0].dtype).div(torch.tensor(args[1], dtype=args[0].dtype))
        return function(*args, **kwargs or {})


def test_a_bin_s_size_is_the_rounded_quotient_however_the_device_divides():
    cells = np.arange(1, 201)
    quotients = torch.from_numpy(cells.astype(np.float32) / np.float32(14))
    assert torch.equal(bin_size(torch.from_numpy(cells)), quotients)
    with DividesLikeAGpu() as mode:
        assert torch.equal(bin_size(torch.from_numpy(cells)), quotients)
        # What the mode is for: the same product in float32 misses some.
        assert not torch.equal(torch.from_numpy(cells.astype(np.float32)) / 14, quotients)
    assert mode.divided == 2


def test_a_gpu_s_division_moves_no_bin():
    features = torch.randn(84, 84, 3, generator=torch.Generator().manual_seed(0))
    ends = 16.0 * torch.arange(84)
    rois = torch.stack((torch.zeros(84), torch.zeros(84), ends, ends.flip(0)), dim=1)
    with DividesLikeAGpu():
        pooled = pool(features, rois)
    assert torch.equal(pooled.cells[pooled.bins], expected(features, rois))
