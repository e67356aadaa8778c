"""A decoded image as the network wants it."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor.backbone import Prepared, Unfit
from resnet101_detectron2.network import PIXEL_MEAN

SHORT_SIDE, LONG_SIDE = 800, 1333
"""The short side is resized to this many pixels, unless the long side then exceeds its limit."""

SMALLEST = 3
"""Pixels below which the stem's pooling has nothing to pool."""


def resized(width: int, height: int) -> tuple[int, int, float]:
    """Network width and height of an image, and the factor, as detectron2's ResizeShortestEdge computes them."""
    scale = SHORT_SIDE / min(width, height)
    new_width, new_height = (SHORT_SIDE, scale * height) if width <= height else (scale * width, SHORT_SIDE)
    longest = max(new_width, new_height)
    if longest > LONG_SIDE:
        shrink = LONG_SIDE / longest
        new_width, new_height, scale = new_width * shrink, new_height * shrink, scale * shrink
    return int(new_width + 0.5), int(new_height + 0.5), scale


def prepare(pixels: NDArray[np.uint8]) -> Prepared:
    """Resize with Pillow's antialiased bilinear filter on 8 bits, as the reference does, and subtract the mean.

    Raises Unfit when a side would have fewer than 3 pixels.
    """
    height, width = pixels.shape[:2]
    new_width, new_height, scale = resized(width, height)
    if min(new_width, new_height) < SMALLEST:
        raise Unfit(
            f"{width} x {height} becomes {new_width} x {new_height} pixels; the network needs {SMALLEST} a side: "
            "crop the image"
        )
    # Pillow only looks at channels one by one: that they are BGR makes no difference to it.
    small = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float32) - np.array(PIXEL_MEAN, dtype=np.float32)
    return Prepared(torch.from_numpy(values).permute(2, 0, 1), width, height, scale)
