"""What a file is, how large its image is, and what it would cost to decode: from its header, before it is decoded."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from mmap import mmap

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode import jpeg, pillow, png, tiff, webp
from extractor.pipeline.decode.facts import Header

MAX_SCANS = 100
"""Passes over a JPEG's coefficients. Encoders write about ten; each costs as much as decoding the whole image."""

MAX_TILE = 2048 * 2048
"""Pixels of a TIFF's tile that are always allowed; a larger tile may be four times as large as its image."""


@dataclass(frozen=True)
class Format:
    """How files of a format begin, and who reads their header."""

    name: str
    begins: re.Pattern[bytes]
    header: Callable[[bytes | mmap], Header]
    refusal: Callable[[bytes | mmap], tuple[RejectReason, str] | None]
    """Why OpenCV may refuse such a file, as far as its bytes tell."""


def _starts(begins: bytes) -> re.Pattern[bytes]:
    return re.compile(begins, re.DOTALL)


def _by_pillow(name: str, begins: bytes) -> Format:
    return Format(name, _starts(begins), partial(pillow.header, name), partial(pillow.refusal, name))


FORMATS = (
    Format("JPEG", _starts(rb"\xff\xd8\xff"), jpeg.header, jpeg.refusal),
    Format("PNG", _starts(rb"\x89PNG"), png.header, png.refusal),
    Format("TIFF", _starts(rb"II[*+]\0|MM\0[*+]"), tiff.header, tiff.refusal),
    Format("WEBP", _starts(rb"RIFF.{4}WEBP"), webp.header, webp.refusal),
    _by_pillow("GIF", rb"GIF8"),
    _by_pillow("AVIF", rb".{4}ftyp.{0,60}avi[fs]"),
    _by_pillow("BMP", rb"BM.{0,7}\0"),
    _by_pillow("PPM", rb"P[1-6]\s"),
    _by_pillow("JPEG2000", rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"),
)
"""The formats that are featurised, by how their files begin, and no text, film or sound does."""

UNSUPPORTED = (
    ("HEIC", rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("JPEG XR", rb"II\xbc"),
    ("PFM, whose values are no grey levels", rb"P[Ff]\s"),
    ("PAM", rb"P7\s"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("OpenEXR", rb"v/1\x01"),
    ("Sun raster", rb"\x59\xa6\x6a\x95"),
    ("Photoshop", rb"8BPS"),
    ("Windows icon", rb"\0\0[\1\2]\0[^\0]\0"),
    ("DirectDraw surface", rb"DDS "),
    ("FITS", rb"SIMPLE  ="),
    ("SVG", rb"\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"),
)
"""Image formats that are recognised and not featurised, and how their files begin."""


def look(data: bytes | mmap) -> tuple[Format, Header]:
    """The format and the header of a file's bytes.

    Raises Undecodable: not an image, an image of a format that is not supported, or a header that cannot be read.
    """
    beginning = data[:1024]
    for known in FORMATS:
        if known.begins.match(beginning):
            return known, known.header(data)
    for name, begins in UNSUPPORTED:
        if re.match(begins, beginning, re.DOTALL):
            raise Undecodable(
                RejectReason.UNSUPPORTED, f"{name}: expected one of {', '.join(each.name for each in FORMATS)}"
            )
    raise Undecodable(RejectReason.NOT_AN_IMAGE, f"no known image format; it begins with {beginning[:16]!r}")


def check(found: Header, max_pixels: int) -> None:
    """Raises Undecodable when the image is an animation, has more pixels than allowed, or costs more than they do."""
    if found.pixels > max_pixels:
        size = f"{found.width} x {found.height} is {found.pixels:,} pixels"
        raise Undecodable(RejectReason.TOO_LARGE, f"{size}; the limit is {max_pixels:,}")
    if found.frames > 1:
        raise Undecodable(
            RejectReason.UNSUPPORTED, f"an animation of {found.frames} frames; an image that stands still is expected"
        )
    if found.scans > MAX_SCANS:
        raise Undecodable(RejectReason.TOO_COSTLY, f"{found.scans:,} scans in one JPEG; the limit is {MAX_SCANS}")
    width, height = found.tile
    if width * height > max(MAX_TILE, 4 * found.pixels):
        raise Undecodable(
            RejectReason.TOO_COSTLY,
            f"a tile of {width} x {height} pixels for an image of {found.width} x {found.height}; "
            f"the limit is four times the image, or {MAX_TILE:,} pixels",
        )
