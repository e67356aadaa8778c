"""Winograd's convolution against torch's own."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnext101_mmf.cpu.winograd import TILES_AT_ONCE, Winograd


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 3),
    height=st.integers(1, 30),
    width=st.one_of(st.integers(1, 30), st.just(4 * TILES_AT_ONCE + 3)),
)
def test_it_gives_what_the_convolution_gives(seed: int, images: int, height: int, width: int):
    random = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(6, 5, 3, padding=1)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
        x = torch.randn(images, 6, height, width, generator=random).contiguous(memory_format=torch.channels_last)
        found = Winograd(conv)(x)
        torch.testing.assert_close(found, conv(x), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last) or 1 in found.shape
