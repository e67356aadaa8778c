"""A JPEG's markers: its size, its scans, whether its scans tell all of it, and what libjpeg's warnings mean."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Header

DHT, RESERVED, DAC, SOI, EOI, SOS, APP0, APP14, TEM, SOF_LS = 0xC4, 0xC8, 0xCC, 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0x01, 0xF7
FRAMES = {*range(0xC0, 0xD0), SOF_LS} - {DHT, RESERVED, DAC}
SEQUENTIAL, PROGRESSIVE = {0xC0, 0xC1, 0xC9}, {0xC2, 0xCA}
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker: no stuffed zero, no fill byte, and no restart marker, which stand within a scan."""

_WARNINGS = (
    (re.compile("Premature end of JPEG file|premature end of data segment|found marker"), RejectReason.TRUNCATED),
    (re.compile("bad Huffman code|bad arithmetic code|Inconsistent progression"), RejectReason.UNREADABLE),
)
"""What libjpeg warns of when it makes up pixels. Its other warnings are about oddities that change none."""


class JpegSegment(NamedTuple):
    """A marker, and where its payload begins and ends."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True)
class JpegFrame:
    """A frame header. `components` are ids."""

    process: int
    precision: int
    height: int
    width: int
    components: bytes


@dataclass(frozen=True)
class Scan:
    """A scan header: its components' ids, the coefficients that it tells of, and how many low bits it leaves out."""

    components: bytes
    first: int
    last: int
    bits_left: int


def segments(data: bytes | mmap) -> Iterator[JpegSegment]:
    """The segments of the file's first image, up to its end marker; the last may reach beyond the bytes."""
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == EOI:
            yield JpegSegment(marker, place, place)
            return
        if marker in (SOI, TEM):
            continue
        end = place + max(2, int.from_bytes(data[place : place + 2]))
        yield JpegSegment(marker, place + 2, end)
        place = end


def header(data: bytes | mmap) -> Header:
    """Size and number of scans.

    Raises Undecodable when there is no frame header, or when the scans leave coefficients out.
    """
    frame = _frame(data)
    if frame.process not in SEQUENTIAL | PROGRESSIVE or frame.precision != 8:
        return Header(frame.width, frame.height)  # it is OpenCV's to say whether it reads these
    scans = _scans(data, frame)
    if not scans:
        raise Undecodable(RejectReason.TRUNCATED, f"it ends before its pixels begin ({len(data):,} bytes in all)")
    _check_told(frame, scans)
    return Header(frame.width, frame.height, scans=len(scans))


def refusal(data: bytes | mmap) -> tuple[RejectReason, str] | None:
    """Why OpenCV refuses this JPEG: its kind, or an end that came too early."""
    frame = _frame(data)
    kind = [
        f"{frame.precision}-bit" * (frame.precision != 8),
        "JPEG-LS" if frame.process == SOF_LS else "lossless JPEG" * (frame.process in LOSSLESS),
        "hierarchical JPEG" * (frame.process in (0xC5, 0xC6, 0xCD, 0xCE)),
    ]
    if any(kind):
        return RejectReason.UNSUPPORTED, " ".join([word for word in kind if word] + ["JPEG"] * (not any(kind[1:])))
    if frame.height == 0:
        return RejectReason.UNSUPPORTED, "JPEG whose height stands behind its pixels (DNL)"
    if not any(segment.marker == EOI for segment in segments(data)):
        return RejectReason.TRUNCATED, "it has no end marker"
    return None


def complaint(warnings: str) -> tuple[RejectReason, str] | None:
    """What the warning that libjpeg wrote means, where it made pixels up."""
    for words, reason in _WARNINGS:
        if (found := words.search(warnings)) is not None:
            line = next(line for line in warnings.splitlines() if found[0] in line)
            return reason, f"not all of its blocks are there; libjpeg: {line.strip()}"
    return None


def without_oddities(data: bytes) -> bytes:
    """The same JPEG without the oddities in its headers that libjpeg warns of and passes over.

    libjpeg tells its first warning only, and behind one of these a missing end would not be heard.
    """
    plain = bytearray(data)
    frame = _frame(data)
    for marker, start, end in segments(data):
        if marker == APP0 and data[start : start + 5] == b"JFIF\0":
            plain[start + 5] = 1
        elif marker == APP14 and data[start : start + 5] == b"Adobe" and end - start >= 12 and data[start + 11] > 2:
            plain[start + 11] = 1 if len(frame.components) == 3 else 2
        elif marker == SOS and frame.process in SEQUENTIAL:
            plain[end - 3 : end] = b"\0\x3f\0"
    return bytes(plain)


def _frame(data: bytes | mmap) -> JpegFrame:
    for marker, start, end in segments(data):
        if marker in FRAMES and end - start >= 6 and end <= len(data):
            precision, height, width, count = struct.unpack_from(">BHHB", data, start)
            return JpegFrame(marker, precision, height, width, data[start + 6 : start + 6 + 3 * count : 3])
        if marker in FRAMES or end > len(data):
            break
        if marker in (SOS, EOI):
            raise Undecodable(RejectReason.UNREADABLE, "a JPEG without a frame header")
    raise Undecodable(RejectReason.TRUNCATED, f"its header breaks off ({len(data)} bytes in all)")


def _scans(data: bytes | mmap, frame: JpegFrame) -> list[Scan]:
    """The scans in order; one that holds all of a sequential image is the only one, and is not searched through."""
    found = []
    for marker, start, end in segments(data):
        if marker == SOS and end <= len(data) and end - start >= 4:
            count, (first, last, bits) = data[start], data[end - 3 : end]
            found.append(Scan(data[start + 1 : start + 1 + 2 * count : 2], first, last, bits & 15))
            if frame.process in SEQUENTIAL and count == len(frame.components):
                break
    return found


def _check_told(frame: JpegFrame, scans: list[Scan]) -> None:
    """Raises Undecodable when coefficients are missing: a progressive JPEG that was cut between scans looks whole."""
    bits_left = {id_: [16] * 64 for id_ in frame.components}
    for scan in scans:
        span = slice(scan.first, scan.last + 1) if frame.process in PROGRESSIVE else slice(64)
        left = scan.bits_left if frame.process in PROGRESSIVE else 0
        for id_ in scan.components:
            if id_ in bits_left:
                bits_left[id_][span] = [left] * len(bits_left[id_][span])
    for id_, bits in bits_left.items():
        untold = [place for place, missing in enumerate(bits) if missing]
        if untold:
            raise Undecodable(
                RejectReason.TRUNCATED,
                f"its {len(scans)} scans leave out all or part of {len(untold)} coefficients of component {id_}",
            )
