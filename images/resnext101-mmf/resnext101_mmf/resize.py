"""Preprocessing of mmf's `extract_features_vmb.py`, in the version of IGLUE: pixels to the network's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.backbone import Prepared, Unfit
from extractor.gpu.transfer import upload
from resnext101_spec import LONG_SIDE, STRIDE, resize_factor

MEAN = np.array([102.9801, 115.9465, 122.7717])
"""Grey levels in BGR order. IGLUE subtracts them from pixels in RGB order, and its published features have it so."""

_LESS_MEAN = (np.arange(256)[:, None] - MEAN).astype(np.float32).reshape(1, 256, 3)
"""Each grey level less each channel's mean: subtracted in double, then rounded, as the reference's in-place subtraction
does."""


class Axis(NamedTuple):
    """Between which two source pixels each resized pixel of a line lies, and its distance from the first."""

    near: NDArray[np.int64]
    far: NDArray[np.int64]
    part: NDArray[np.float32]


@dataclass(frozen=True)
class Source(Prepared):
    """An image that is resized on the network's device: `tensor` holds its bytes [h, w, 3] in BGR order."""

    rows: Axis
    columns: Axis


def resized(width: int, height: int) -> tuple[float, int, int]:
    """The resize factor, and the resized height and width.

    Raises Unfit when a side would be resized to nothing.
    """
    factor = resize_factor(width, height)
    # cv2 rounds half to even, as Python does.
    sides = (round(height * factor), round(width * factor))
    if min(sides) == 0:
        raise Unfit(
            f"{width} x {height} pixels: with its longer side at {LONG_SIDE} its shorter side would be "
            f"{min(width, height) * factor:.2f} pixels, which is none"
        )
    return factor, *sides


def padded(length: int) -> int:
    """The side of the network's input for a resized side: padding is zeros, which is the mean colour."""
    return -(-length // STRIDE) * STRIDE


def prepare(pixels: NDArray[np.uint8]) -> Prepared:
    """Resize, normalise and pad one image, uint8 [H, W, 3] in BGR order, as OpenCV does it on a CPU.

    The tensor [3, H, W] is padded at its right and bottom to multiples of 32. Raises Unfit when a side would be resized
    to nothing.
    """
    height, width = pixels.shape[:2]
    factor, *sides = resized(width, height)
    rgb = np.ascontiguousarray(pixels[:, :, ::-1])
    # fx and fy, not the sizes: the reference samples at the requested factor, not at the ratio of rounded sizes.
    found = cv2.resize(cv2.LUT(rgb, _LESS_MEAN), None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    down, across = map(padded, sides)
    tensor = functional.pad(torch.from_numpy(found).permute(2, 0, 1), (0, across - sides[1], 0, down - sides[0]))
    return Prepared(tensor.contiguous(), width, height, factor, (down, across))


def sample(pixels: NDArray[np.uint8]) -> Source:
    """The same image for `sampled`: its bytes, without rows and columns that no resized pixel lies between.

    The reference subtracts the mean before it resizes, so that bytes cannot be resized beforehand.
    """
    height, width = pixels.shape[:2]
    factor, *sides = resized(width, height)
    rows, pixels = _needed(axis(height, sides[0], factor), pixels, 0)
    columns, pixels = _needed(axis(width, sides[1], factor), pixels, 1)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return Source(tensor, width, height, factor, (padded(sides[0]), padded(sides[1])), rows, columns)


@lru_cache(maxsize=1024)
def axis(length: int, resized: int, factor: float) -> Axis:
    """Along one axis: pixel centres scaled in double, as OpenCV's SIMD code does it, the border repeated."""
    at = (np.arange(resized) + 0.5) / factor - 0.5
    near = np.floor(at).astype(np.int64)
    part = np.where(near < 0, 0, at - near).astype(np.float32)
    near = near.clip(0, length - 1)
    return Axis(near, (near + 1).clip(max=length - 1), part)


def _needed(found: Axis, pixels: NDArray[np.uint8], along: int) -> tuple[Axis, NDArray[np.uint8]]:
    """A line much longer than its resized one is cut to what is looked at, so that no image travels as more than four
    times its resized bytes."""
    if pixels.shape[along] <= 2 * len(found.near):
        return found, pixels
    used = np.unique(np.concatenate(found[:2]))
    near, far = (np.searchsorted(used, places) for places in found[:2])
    return Axis(near, far, found.part), pixels.take(used, axis=along)


def network_input(batch: Sequence[Prepared], frame: tuple[int, int], device: torch.device) -> Tensor:
    """The images in their frame, float32 [B, 3, H, W] on the device, zero outside of each."""
    if not all(isinstance(one, Source) for one in batch):
        return torch.stack([_framed(one.tensor, frame) for one in batch]).to(device)
    mean = upload(torch.from_numpy(MEAN), device)
    found = torch.zeros(len(batch), *frame, 3, device=device)
    for place, one in zip(found, batch, strict=True):
        if isinstance(one, Source):
            place[: len(one.rows.near), : len(one.columns.near)] = sampled(one, mean)
    return found.permute(0, 3, 1, 2)


def _framed(tensor: Tensor, frame: tuple[int, int]) -> Tensor:
    height, width = tensor.shape[1:]
    return functional.pad(tensor, (0, frame[1] - width, 0, frame[0] - height))


def sampled(source: Source, mean: Tensor) -> Tensor:
    """The resized image less its mean, float32 [H, W, 3] in RGB order, where `mean` is.

    As OpenCV's SIMD code: first along lines, then across them, each a product and a sum rounded once to float32. A few
    values differ from its own in the last bit.
    """
    lines = len(source.rows.near)
    along = upload(taps(source), mean.device)
    near, far = along[:2].long()
    part = along[2].double()[:, None]
    pixels = (upload(source.tensor, mean.device).flip(2) - mean).float()
    wide = _between(pixels.index_select(1, near[lines:]), pixels.index_select(1, far[lines:]), part[lines:])
    return _between(wide.index_select(0, near[:lines]), wide.index_select(0, far[:lines]), part[:lines, None])


def taps(source: Source) -> Tensor:
    """Near and far pixels and parts, float32 [3, H + W]: of the rows, then of the columns."""
    return torch.from_numpy(np.concatenate([np.stack(source.rows), np.stack(source.columns)], axis=1, dtype=np.float32))


def _between(near: Tensor, far: Tensor, part: Tensor) -> Tensor:
    return torch.addcmul(near.double(), (far - near).double(), part).float()
