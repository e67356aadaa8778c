"""Image files of every kind, as bytes, for the tests of decoding."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from extractor.pipeline.decode import jpeg

ORIENTATION = 0x0112


def blots(width: int = 64, height: int = 48) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


IMAGE = blots()
TURNED = Image.Exif()
TURNED[ORIENTATION] = 6


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bits(channels: int) -> bytes:
    values = np.asarray(IMAGE)[:, :, :channels].astype(np.uint16) * 256 + 77
    return cv2.imencode(".png", values)[1].tobytes()


def animated(kind: str) -> bytes:
    return encoded(IMAGE, kind, save_all=True, append_images=[IMAGE.rotate(90)])


def prompted() -> PngImagePlugin.PngInfo:
    """What image generators write into their images."""
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "x" * 3_000_000, zip=True)
    text.add_itxt("workflow", "y" * 3_000_000, zip=True)
    return text


def noted(text: str) -> PngImagePlugin.PngInfo:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", text)
    return note


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(IMAGE, kind, exif=exif)


def tiff(values: np.ndarray | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(IMAGE) if values is None else values, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge image."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def with_note(mark: int, note: bytes) -> bytes:
    """A JPEG in which an application wrote."""
    plain = encoded(IMAGE, "JPEG")
    return plain[:2] + struct.pack(">HH", mark, len(note) + 2) + note + plain[2:]


def odd_scan(plain: bytes) -> bytes:
    """A sequential JPEG whose scan says that it is a progressive one's."""
    (scan,) = (segment for segment in jpeg.segments(plain) if segment.marker == jpeg.SOS)
    return plain[: scan.end - 3] + b"\1\x3f\0" + plain[scan.end :]
