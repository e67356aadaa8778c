"""A decoded image as the network wants it: bytes until it is on the network's device, numbers there."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from extractor.backbone import Prepared, Unfit
from extractor.gpu.transfer import upload, uploadable
from resnet101_detectron2.network import PIXEL_MEAN

SHORT_SIDE, LONG_SIDE = 800, 1333
"""The short side is resized to this many pixels, unless the long side then exceeds its limit."""

SMALLEST = 3
"""Pixels below which the stem's pooling has nothing to pool."""


def resized(width: int, height: int) -> tuple[int, int, float]:
    """Network width and height of a image, and the factor, as detectron2's ResizeShortestEdge computes them."""
    scale = SHORT_SIDE / min(width, height)
    new_width, new_height = (SHORT_SIDE, scale * height) if width <= height else (scale * width, SHORT_SIDE)
    longest = max(new_width, new_height)
    if longest > LONG_SIDE:
        shrink = LONG_SIDE / longest
        new_width, new_height, scale = new_width * shrink, new_height * shrink, scale * shrink
    return int(new_width + 0.5), int(new_height + 0.5), scale


def prepare(pixels: NDArray[np.uint8]) -> Prepared:
    """Resize with Pillow's antialiased bilinear filter on 8 bits, as the reference does: uint8 [H, W, 3].

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
    return Prepared(torch.from_numpy(np.array(small)), width, height, scale, (new_height, new_width))


def network_input(batch: Sequence[Prepared], frame: tuple[int, int], device: torch.device) -> Tensor:
    """The images less their mean, float32 [B, 3, H, W] in channels-last memory on the device.

    What lies beyond an image that is smaller than the frame is arbitrary.
    """
    pixels = in_frame(batch, frame, device).to(device, non_blocking=True).float()
    return pixels.sub_(upload(torch.tensor(PIXEL_MEAN), device)).permute(0, 3, 1, 2)


def in_frame(batch: Sequence[Prepared], frame: tuple[int, int], device: torch.device) -> Tensor:
    """The images' bytes in their frame, uint8 [B, H, W, 3], where the host can hand them to the device."""
    found = uploadable((len(batch), *frame, 3), device)
    for place, one in zip(found, batch, strict=True):
        height, width = one.shape
        place[:height, :width] = one.tensor
    return found
