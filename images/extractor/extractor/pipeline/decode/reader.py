"""One image file to pixels, in a process of its own, since its decoders write what they notice to standard error."""

import os
import re
from mmap import mmap

import cv2
import numpy as np
from numpy.typing import NDArray

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode import header, jpeg, pillow
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.memory import memory_file

_NO_MEMORY = re.compile("Failed to allocate|Insufficient memory|bad_alloc|[Oo]ut of memory")
"""What OpenCV, which catches its own errors in imread, and its libraries write then."""


class StandardError:
    """What libraries write to this process's standard error, kept in memory."""

    def __init__(self) -> None:
        self._file = os.memfd_create("stderr")
        os.dup2(self._file, 2)

    def clear(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)

    def text(self) -> str:
        """What was written since, the first 4,096 bytes."""
        return os.pread(self._file, 4096, 0).decode(errors="replace")


def read(file: int, data: mmap, kind: header.Format, reader: Reader, told: StandardError) -> NDArray[np.uint8]:
    """The pixels of the image in an open file, whose content is `data`: uint8 [H, W, 3] in the reader's channel order.

    Raises Undecodable when the reference's reader reads no such pixels, or makes some up; MemoryError.
    """
    if reader is Reader.PILLOW:
        if kind.name == "JPEG":
            _check_blocks(data, _imread(file, told)[1], told)
        return pillow.pixels(data)
    pixels, warnings = _imread(file, told)
    if kind.name == "JPEG" and pixels is not None:
        _check_blocks(data, warnings, told)
    if pixels is None:
        reason, why = kind.refusal(data) or (
            RejectReason.UNREADABLE,
            " ".join(warnings.split()) or "it does not say why",
        )
        raise Undecodable(reason, f"{why}; cv2.imread reads nothing of it, and the references could not either")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise Undecodable(
            RejectReason.UNSUPPORTED, f"{kind.name} that cv2.imread reads as {got}; expected uint8 [H, W, 3]"
        )
    return pixels


def _imread(file: int, told: StandardError) -> tuple[NDArray[np.uint8] | None, str]:
    told.clear()
    try:
        pixels = cv2.imread(f"/proc/self/fd/{file}", cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise
    text = told.text()
    if pixels is None and _NO_MEMORY.search(text):
        raise MemoryError(text)
    return pixels, text  # type: ignore[return-value]  # its dtype and shape are what `read` checks


def _check_blocks(data: mmap, warnings: str, told: StandardError) -> None:
    """Raises Undecodable when libjpeg warned that it made up pixels."""
    found = jpeg.complaint(warnings)
    if warnings and found is None and (plain := jpeg.without_oddities(data[:])) != data[:]:
        with memory_file("image", plain) as again:
            found = jpeg.complaint(_imread(again, told)[1])
    if found is not None:
        raise Undecodable(*found)
