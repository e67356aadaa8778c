"""Preprocessing of mmf's `extract_features_vmb.py`, in the version of IGLUE: pixels to the network's input."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from extractor.backbone import Prepared, Unfit
from resnext101_spec import LONG_SIDE, STRIDE, resize_factor

MEAN = np.array([102.9801, 115.9465, 122.7717])
"""Grey levels in BGR order. IGLUE subtracts them from pixels in RGB order, and its published features have it so."""

_LESS_MEAN = (np.arange(256)[:, None] - MEAN).astype(np.float32).reshape(1, 256, 3)
"""Each grey level less each channel's mean: subtracted in double, then rounded, as the reference's in-place subtraction
does."""


def prepare(pixels: NDArray[np.uint8]) -> Prepared:
    """Resize, normalise and pad one image, uint8 [H, W, 3] in BGR order.

    The tensor is padded at its right and bottom to multiples of 32 with zeros, which is the mean colour; images of
    one padded shape have the same result together as alone. Raises Unfit when a side would be resized to nothing.
    """
    height, width = pixels.shape[:2]
    factor = resize_factor(width, height)
    # cv2 rounds half to even, as Python does.
    sides = (round(height * factor), round(width * factor))
    if min(sides) == 0:
        raise Unfit(
            f"{width} x {height} pixels: with its longer side at {LONG_SIDE} its shorter side would be "
            f"{min(width, height) * factor:.2f} pixels, which is none"
        )
    rgb = np.ascontiguousarray(pixels[:, :, ::-1])
    # fx and fy, not the sizes: the reference samples at the requested factor, not at the ratio of rounded sizes.
    resized = cv2.resize(cv2.LUT(rgb, _LESS_MEAN), None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    tensor = torch.from_numpy(resized).permute(2, 0, 1)
    bottom, right = (-side % STRIDE for side in tensor.shape[1:])
    return Prepared(functional.pad(tensor, (0, right, 0, bottom)).contiguous(), width, height, factor)
