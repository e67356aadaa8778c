"""A WebP's chunks: its size, and its frames. (Pillow sets memory for all pixels aside to tell these.)"""

from mmap import mmap

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Header

ANIMATED = 2
"""A flag of the extended format."""


def header(data: bytes | mmap) -> Header:
    """Size and number of frames.

    Raises Undecodable when the header is cut off, or is none.
    """
    beginning = data[12:30]
    kind, body = beginning[:4], beginning[8:]
    if len(body) < 10:
        raise Undecodable(RejectReason.TRUNCATED, f"its header breaks off ({len(data):,} bytes in all)")
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[place : place + 3], "little") + 1 for place in (4, 7))
        return Header(width, height, frames=_frames(data) if body[0] & ANIMATED else 1)
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[place : place + 2], "little") & 0x3FFF for place in (6, 8))
        return Header(width, height)
    raise Undecodable(RejectReason.UNREADABLE, f"a WebP that begins with {kind!r}, which is no header")


def refusal(data: bytes | mmap) -> tuple[RejectReason, str] | None:
    """Why OpenCV may refuse it: an end that is missing."""
    missing = int.from_bytes(data[4:8], "little") + 8 - len(data)
    return (
        (RejectReason.TRUNCATED, f"{missing:,} bytes are missing ({len(data):,} bytes in all)") if missing > 0 else None
    )


def _frames(data: bytes | mmap) -> int:
    place, frames = 12, 0
    while place + 8 <= len(data):
        frames += data[place : place + 4] == b"ANMF"
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return frames
