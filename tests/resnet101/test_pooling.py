"""Pooling of distinct rectangles against torchvision's operator, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_pool

from resnet101_detectron2.pooling import pool

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
