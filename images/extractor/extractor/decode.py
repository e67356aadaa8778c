"""Bytes to pixels as the references see them (`cv2.imread`), with every doubtful picture refused by name.

OpenCV decodes, since it is what both references read pictures with: 8-bit BGR, grey replicated, alpha dropped, EXIF
orientation applied. It fills the missing rest of a truncated JPEG with grey without a word; therefore Pillow looks at
each picture first: at its size before anything is decoded, and strictly at its whole stream.
"""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from extractor.manifest import Reason

MAX_PIXELS = 128 * 1024 * 1024
"""The largest picture that is decoded, in pixels (384 MB of BGR): beyond any camera, below decompression bombs."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What OpenCV's wheels read too. Pillow's other formats may run foreign programs and stay closed."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})

Image.MAX_IMAGE_PIXELS = None  # our own limit comes first, with a reason of its own
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what OpenCV would print is in the reject's detail


class Undecodable(Exception):
    """Raised when bytes are no picture that can be featurised; `reason` is the reject's."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels of one picture, uint8 [H, W, 3] in BGR order.

    Raises Undecodable with the reason: empty, not an image, truncated, too large, unsupported (animated), unreadable.
    """
    if not data:
        raise Undecodable(Reason.EMPTY, "the object holds no bytes")
    _inspect(data, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise Undecodable(Reason.UNREADABLE, f"OpenCV: {error.err or error}") from error
    if pixels is None:
        raise Undecodable(Reason.UNREADABLE, "Pillow reads it, OpenCV does not: the references could not either")
    return np.asarray(pixels, dtype=np.uint8)


def _inspect(data: bytes, max_pixels: int) -> None:
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES) or data[4:8] == b"ftyp":
            raise Undecodable(Reason.TRUNCATED, f"its header breaks off ({len(data)} bytes in all)") from error
        raise Undecodable(Reason.NOT_AN_IMAGE, f"no known picture format; it begins with {data[:16]!r}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise _broken(error, "its header cannot be read") from error
    with picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise Undecodable(
                Reason.TOO_LARGE, f"{width} x {height} is {width * height:,} pixels; the limit is {max_pixels:,}"
            )
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format in _ANIMATED:
            raise Undecodable(Reason.UNSUPPORTED, f"an animation of {frames} frames; a single picture is expected")
        try:
            # The smallest scale a JPEG offers: the whole stream is read, hardly a pixel is computed.
            picture.draft(None, (1, 1))
            picture.load()
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise _broken(error, "its pixels cannot be read") from error


def _broken(error: Exception, what: str) -> Undecodable:
    reason = Reason.TRUNCATED if "truncated" in str(error).lower() else Reason.UNREADABLE
    return Undecodable(reason, f"{what}: {error}")
