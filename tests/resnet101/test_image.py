"""Resizing and normalising."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge

from extractor.backbone import Unfit
from resnet101_detectron2.image import network_input, prepare, resized

SIZES = [
    (640, 427),
    (427, 640),
    (512, 512),
    (1600, 200),
    (40, 30),
    (1, 1),
    (1600, 20),
    (333, 1000),
    (1333, 800),
    (7, 6),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_size_is_detectron2_s(width: int, height: int):
    expected_height, expected_width = ResizeShortestEdge.get_output_shape(height, width, 800, 1333)
    assert resized(width, height)[:2] == (expected_width, expected_height)


@pytest.mark.parametrize(("width", "height"), [(60, 40), (80, 16), (1, 1)])
def test_pixels_are_resized_on_8_bits_and_lose_the_mean(width: int, height: int):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prepared = prepare(pixels)
    transform = ResizeShortestEdge([800, 800], 1333).get_transform(pixels)
    expected = transform.apply_image(pixels).astype(np.float32) - np.array([102.9801, 115.9465, 122.7717], np.float32)
    tensor = network_input([prepared], prepared.shape, torch.device("cpu"))
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), expected)
    assert (prepared.width, prepared.height) == (width, height)
    assert prepared.tensor.dtype == torch.uint8  # bytes travel, a quarter of the numbers
    assert prepared.scale == pytest.approx(prepared.shape[1] / width, rel=0.01)


def test_a_line_of_pixels_is_unfit():
    with pytest.raises(Unfit, match="1600 x 2 becomes 1333 x 2"):
        prepare(np.zeros((2, 1600, 3), np.uint8))
