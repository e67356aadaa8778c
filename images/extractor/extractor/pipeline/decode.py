"""Bytes to pixels as the references see them (`cv2.imread`), with every doubtful image refused by name.

OpenCV decodes, since it is what both references read images with: 8-bit BGR, grey replicated, alpha dropped, EXIF
orientation applied. It fills the missing rest of a truncated JPEG with grey without a word; therefore Pillow looks at
each image first: at its size before anything is decoded, and strictly at its whole stream.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from extractor.core.manifest import MAX_PIXELS, Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What OpenCV's wheels read too. Pillow's other formats may run foreign programs and stay closed."""

_BEGINNING = re.compile(
    b"|".join(
        (
            rb"\xff\xd8\xff",
            rb"\x89PNG",
            rb"RIFF.{4}WEBP",
            rb"GIF8",
            rb".{4}ftyp.{0,60}avi[fs]",
            rb"BM.{0,7}\0",
            rb"II[*+]\0|MM\0[*+]",
            rb"P[1-6]\s",
            rb"\0\0\0\x0cjP|\xff\x4f\xff\x51",
        )
    ),
    re.DOTALL,
)
"""How files of these formats begin, and how no text, film or sound does."""

_WRITTEN = re.compile(rb"(\xff[\xe0-\xef]..)[A-Z]", re.DOTALL)
"""What applications wrote into a JPEG begins so: its mark, its length, and the first letter of its name."""

_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})

Image.MAX_IMAGE_PIXELS = None  # our own limit comes first, with a reason of its own
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # OpenCV passes over text, however long
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what OpenCV would print is in the reject's detail


class Undecodable(Exception):
    """Raised when bytes are no image that can be featurised; `reason` is the reject's."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def pixels_of(data: bytes) -> int:
    """How many pixels an image's header claims.

    Raises Undecodable where there is no header to be read.
    """
    with _readable(data) as image:
        return image.width * image.height


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels of one image, uint8 [H, W, 3] in BGR order.

    Raises Undecodable with the reason: empty, not an image, truncated, too large, unsupported (animated), unreadable.
    Raises MemoryError when the machine's memory does not suffice: that is no property of the image.
    """
    _inspect(data, max_pixels)
    try:
        with memory_told():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise Undecodable(Reason.UNREADABLE, f"OpenCV: {error.err or error}") from error
    if pixels is None:
        raise Undecodable(Reason.UNREADABLE, "Pillow reads it, OpenCV does not: the references could not either")
    return np.asarray(pixels, dtype=np.uint8)


@contextmanager
def memory_told() -> Iterator[None]:
    """Raises MemoryError where OpenCV's error is that memory did not suffice; its other errors go on as they are."""
    try:
        yield
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"OpenCV: {error.err}") from error
        raise


def _inspect(data: bytes, max_pixels: int) -> None:
    with _readable(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise Undecodable(
                Reason.TOO_LARGE, f"{width} x {height} is {width * height:,} pixels; the limit is {max_pixels:,}"
            )
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in _ANIMATED:
            raise Undecodable(Reason.UNSUPPORTED, f"an animation of {frames} frames; a single image is expected")
        # The smallest scale a JPEG offers: the whole stream is read, hardly a pixel is computed.
        image.draft(None, (1, 1))
        image.load()
        if image.format == "PNG":
            _check_chunks(data)


@contextmanager
def _readable(data: bytes) -> Iterator[Image.Image]:
    """An image as Pillow opens it.

    Raises Undecodable for whatever is wrong with its bytes, here or while it is read.
    """
    if not data:
        raise Undecodable(Reason.EMPTY, "the object holds no bytes")
    try:
        with _opened(data) as image:
            yield image
    except (Undecodable, MemoryError):
        raise
    except Exception as error:  # on bytes of unknown origin decoders raise anything, and one image must not end a run
        raise _broken(error, data) from error


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if not data.startswith(b"\xff\xd8"):
            raise
        # Pillow insists on understanding what applications wrote into a JPEG; OpenCV passes over what is broken there.
        return Image.open(io.BytesIO(_WRITTEN.sub(rb"\1\0", data)), formats=FORMATS)


def _check_chunks(data: bytes) -> None:
    """OpenCV sets aside what a PNG's chunk claims to hold, up to 4 GB, before it looks whether that is there."""
    place, kind = 8, b""
    while place < len(data) and kind != b"IEND":
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        place += 12 + length
        if place > len(data):
            raise Undecodable(Reason.TRUNCATED, f"a chunk claims {length:,} bytes, {place - len(data):,} too many")


def _broken(error: Exception, data: bytes) -> Undecodable:
    if not _BEGINNING.match(data):
        return Undecodable(Reason.NOT_AN_IMAGE, f"no known image format; it begins with {data[:16]!r}")
    if isinstance(error, UnidentifiedImageError):
        return Undecodable(Reason.TRUNCATED, f"its header breaks off ({len(data)} bytes in all)")
    ended = isinstance(error, IndexError | EOFError | struct.error)
    told = any(words in str(error).lower() for words in ("truncated", "missing dimensions"))
    reason = Reason.TRUNCATED if ended or told else Reason.UNREADABLE
    return Undecodable(reason, f"it cannot be read to its end: {type(error).__name__}: {error}")
