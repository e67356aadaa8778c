"""A TIFF's first directory: its size, its tiles, and what OpenCV does not read."""

import struct
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Header

WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES = 256, 257, 258, 259, 274, 277
TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT = 322, 323, 339
PIECES = ((273, 279), (324, 325))
"""Offsets and lengths of strips, and of tiles."""

COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
"""None, CCITT, LZW, JPEG, deflate and PackBits: what OpenCV's libtiff is built with."""
_NAMES = {
    6: "old JPEG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
}
_TYPES = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}

Directory = dict[int, NDArray[np.unsignedinteger]]


def header(data: bytes | mmap) -> Header:
    """Size, and the size of its tiles.

    Raises Undecodable when the directory is missing or says no size.
    """
    tags = _directory(data)
    width, height = _one(tags, WIDTH), _one(tags, HEIGHT)
    if not width or not height:
        raise Undecodable(RejectReason.UNREADABLE, "a TIFF whose first directory says no width and height")
    return Header(width, height, tile=(_one(tags, TILE_WIDTH), _one(tags, TILE_HEIGHT)))


def refusal(data: bytes | mmap) -> tuple[RejectReason, str] | None:
    """Why OpenCV refuses it: pixels that are not there, or a kind of TIFF."""
    tags = _directory(data)
    for offsets, lengths in PIECES:
        if offsets in tags and lengths in tags and len(tags[offsets]) == len(tags[lengths]):
            ends = tags[offsets].astype(np.float64) + tags[lengths]
            if (ends > len(data)).any():
                missing = int(ends.max()) - len(data)
                return RejectReason.TRUNCATED, f"{missing:,} bytes are missing ({len(data):,} bytes in all)"
    compression, orientation = _one(tags, COMPRESSION, 1), _one(tags, ORIENTATION, 1)
    kinds = (
        (compression not in COMPRESSIONS, f"compressed by {_NAMES.get(compression, 'method')} ({compression})"),
        (_one(tags, SAMPLE_FORMAT, 1) == 3, "of floating-point samples"),
        (_one(tags, BITS, 1) > 16, f"of {_one(tags, BITS)} bits a sample"),
        (_one(tags, SAMPLES, 1) > 4, f"of {_one(tags, SAMPLES)} samples a pixel"),
        (5 <= orientation <= 8, f"of orientation {orientation}"),
    )
    told = [kind for holds, kind in kinds if holds]
    return (RejectReason.UNSUPPORTED, f"TIFF {', '.join(told)}") if told else None


def _one(tags: Directory, tag: int, default: int = 0) -> int:
    return int(tags[tag][0]) if tag in tags and len(tags[tag]) else default


def _directory(data: bytes | mmap) -> Directory:
    try:
        return _read_directory(data)
    except (struct.error, ValueError, OverflowError) as error:  # it lies beyond the file's end
        raise Undecodable(
            RejectReason.TRUNCATED, f"its directory is cut off or not there ({len(data):,} bytes in all)"
        ) from error


def _read_directory(data: bytes | mmap) -> Directory:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    word, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = struct.calcsize(order + word)
    (place,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    wanted = {WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT}
    wanted.update(tag for piece in PIECES for tag in piece)
    found: Directory = {}
    for _ in range(entries):
        tag, kind, length = struct.unpack_from(order + entry, data, place)
        place += struct.calcsize(order + entry)
        if tag in wanted and kind in _TYPES:
            dtype = np.dtype(order + _TYPES[kind])
            (elsewhere,) = struct.unpack_from(order + word, data, place)
            start = place if length * dtype.itemsize <= inline else elsewhere
            found[tag] = np.frombuffer(data[start : start + length * dtype.itemsize], dtype, length)
        place += inline
    return found
