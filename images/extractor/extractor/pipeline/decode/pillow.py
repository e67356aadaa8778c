"""Pillow's part: the headers of the rarer formats, and the pixels that mmf's own script reads."""

import io
import struct
from mmap import mmap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Header

OPENED = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Pillow's other formats may run foreign programs and stay closed."""

_ANIMATED = {"GIF", "AVIF"}

Image.MAX_IMAGE_PIXELS = None  # our own limit comes first, with a reason of its own
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # OpenCV passes over text, however long


def header(kind: str, data: bytes | mmap) -> Header:
    """Size and number of frames of an image of one of Pillow's formats.

    Raises Undecodable when Pillow finds no header in it.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            frames = getattr(image, "n_frames", 1) if kind in _ANIMATED else 1
            return Header(image.width, image.height, frames=frames)
    except MemoryError:
        raise
    except Exception as error:  # on bytes of unknown origin Pillow's readers raise anything
        if _breaks_off(kind, data) or _told_cut(error):
            raise Undecodable(RejectReason.TRUNCATED, f"its header breaks off ({len(data):,} bytes in all)") from error
        raise Undecodable(RejectReason.UNREADABLE, f"{kind} whose header cannot be read: {_told(error)}") from error


def refusal(kind: str, data: bytes | mmap) -> tuple[RejectReason, str] | None:
    """Why OpenCV refuses it, as far as its lengths and Pillow tell."""
    if _breaks_off(kind, data):
        return RejectReason.TRUNCATED, f"its end is missing ({len(data):,} bytes in all)"
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - on bytes of unknown origin Pillow's readers raise anything
        reason = RejectReason.TRUNCATED if _told_cut(error) else RejectReason.UNREADABLE
        return reason, f"it cannot be read to its end: {_told(error)}"
    return None


def pixels(data: bytes | mmap) -> NDArray[np.uint8]:
    """The pixels that mmf's script reads: not rotated by EXIF, converted to RGB, uint8 [H, W, 3].

    Raises Undecodable when Pillow does not read the image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=OPENED) as image:
            return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # on bytes of unknown origin Pillow's readers raise anything
        reason = RejectReason.TRUNCATED if _told_cut(error) else RejectReason.UNREADABLE
        raise Undecodable(reason, f"Pillow does not read it, nor could the reference: {_told(error)}") from error


def _told(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "Pillow does not recognise it"
    return f"{type(error).__name__}: {error}"


def _told_cut(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, IndexError | EOFError | struct.error) or "truncated" in text


def _breaks_off(kind: str, data: bytes | mmap) -> bool:
    """Whether a format's own lengths or its end mark say that bytes are missing."""
    if kind == "GIF":
        return data[len(data) - 1 :] != b"\x3b"
    if kind == "JPEG2000" and data[:2] == b"\xff\x4f":
        return data[len(data) - 2 :] != b"\xff\xd9"
    return kind in ("AVIF", "JPEG2000") and _box_breaks_off(data)


def _box_breaks_off(data: bytes | mmap) -> bool:
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16])
        if length < 8:  # 0: it reaches to the end
            return False
        place += length
    return place > len(data)
