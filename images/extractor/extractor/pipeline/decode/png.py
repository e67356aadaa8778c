"""A PNG's chunks: its size, its frames, and whether all of it is there."""

import struct
from mmap import mmap

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Header


def header(data: bytes | mmap) -> Header:
    """Size and number of frames.

    Raises Undecodable when a chunk claims bytes that are not there (OpenCV would set up to 4 GB aside for it), when
    the last chunk is missing, or when the first is no header.
    """
    place, kind, found, frames = 8, b"", b"", 1
    while kind != b"IEND":
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        body, place = place + 8, place + 12 + length
        if len(kind) < 4:
            raise Undecodable(RejectReason.TRUNCATED, f"its end chunk is missing ({len(data):,} bytes in all)")
        if place > len(data):
            raise Undecodable(
                RejectReason.TRUNCATED, f"a chunk claims {length:,} bytes, {place - len(data):,} too many"
            )
        if not found:
            if kind != b"IHDR" or length != 13:
                raise Undecodable(RejectReason.UNREADABLE, f"a PNG that begins with {kind!r} in place of its header")
            found = data[body : body + 8]
        elif kind == b"acTL" and length >= 4:
            frames = int.from_bytes(data[body : body + 4])
    width, height = struct.unpack(">II", found)
    return Header(width, height, frames=frames)


def refusal(_: bytes | mmap) -> tuple[RejectReason, str] | None:
    """Why OpenCV may refuse it: its chunks are whole, and no kind of PNG is refused."""
    return None
