"""One stated outcome for every kind of picture: the table "Bad input" of the extractor's README."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from extractor.decode import MAX_PIXELS, Undecodable, decode
from extractor.manifest import Reason

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
ORIENTATION = 0x0112


def blots(width: int = 64, height: int = 48) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


PICTURE = blots()
TURNED = Image.Exif()
TURNED[ORIENTATION] = 6


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bits(channels: int) -> bytes:
    values = np.asarray(PICTURE)[:, :, :channels].astype(np.uint16) * 256 + 77
    return cv2.imencode(".png", values)[1].tobytes()


def animated(kind: str) -> bytes:
    return encoded(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(90)])


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge picture."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


FEATURISED = {
    "JPEG": encoded(PICTURE, "JPEG"),
    "progressive JPEG": encoded(PICTURE, "JPEG", progressive=True),
    "JPEG with bytes after its end": encoded(PICTURE, "JPEG") + b"something else",
    "1 x 1": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
    "1600 x 20": encoded(blots(1600, 20), "PNG"),
    "grey JPEG": encoded(PICTURE.convert("L"), "JPEG"),
    "grey PNG": encoded(PICTURE.convert("L"), "PNG"),
    "black and white PNG": encoded(PICTURE.convert("1"), "PNG"),
    "grey and alpha PNG": encoded(PICTURE.convert("LA"), "PNG"),
    "RGBA PNG": (GOLDEN / "rocket_rgba.png").read_bytes(),
    "palette PNG": encoded(PICTURE.quantize(64), "PNG"),
    "palette PNG with a transparent colour": encoded(PICTURE.quantize(64), "PNG", transparency=3),
    "CMYK JPEG": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "16-bit grey PNG": sixteen_bits(1),
    "16-bit RGB PNG": sixteen_bits(3),
    "EXIF-rotated JPEG": (GOLDEN / "chelsea_exif6.jpg").read_bytes(),
    "EXIF-rotated PNG": encoded(PICTURE, "PNG", exif=TURNED),
    "JPEG of several pictures (MPO)": encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(90)]),
    "still GIF": encoded(PICTURE, "GIF"),
    "WebP": encoded(PICTURE, "WEBP"),
    "AVIF": encoded(PICTURE, "AVIF"),
    "BMP": encoded(PICTURE, "BMP"),
    "TIFF": encoded(PICTURE, "TIFF"),
    "JPEG 2000": encoded(PICTURE, "JPEG2000"),
}


@pytest.mark.parametrize("name", FEATURISED)
def test_what_the_reference_can_read_is_read_as_it_reads_it(tmp_path: Path, name: str):
    path = tmp_path / "picture.jpg"
    path.write_bytes(FEATURISED[name])
    np.testing.assert_array_equal(decode(FEATURISED[name]), cv2.imread(str(path)))


def test_a_rotated_photo_stands_upright():
    assert Image.open(GOLDEN / "chelsea_exif6.jpg").size == (451, 300)
    assert decode(FEATURISED["EXIF-rotated JPEG"]).shape == (451, 300, 3)


def test_alpha_is_dropped_and_not_blended():
    rgba = np.asarray(Image.open(GOLDEN / "rocket_rgba.png"))
    np.testing.assert_array_equal(decode(FEATURISED["RGBA PNG"]), rgba[:, :, 2::-1])


def test_16_bits_lose_the_lower_8():
    np.testing.assert_array_equal(decode(FEATURISED["16-bit RGB PNG"]), np.asarray(PICTURE))


JPEG, PNG = FEATURISED["JPEG"], FEATURISED["grey PNG"]
REJECTED = {
    "no bytes": (b"", Reason.EMPTY),
    "zero bytes": (bytes(1000), Reason.NOT_AN_IMAGE),
    "HTML": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", Reason.NOT_AN_IMAGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.NOT_AN_IMAGE),
    "PDF": (b"%PDF-1.7\n", Reason.NOT_AN_IMAGE),
    "JPEG cut in its header": (JPEG[:20], Reason.TRUNCATED),
    "JPEG cut before its pixels": (JPEG[:600], Reason.TRUNCATED),
    "JPEG cut in its pixels": (JPEG[:900], Reason.TRUNCATED),
    "JPEG without its last two bytes": (JPEG[:-2], Reason.TRUNCATED),
    "progressive JPEG cut": (FEATURISED["progressive JPEG"][:-40], Reason.TRUNCATED),
    "PNG cut": (PNG[:-40], Reason.TRUNCATED),
    "AVIF cut": (FEATURISED["AVIF"][:-20], Reason.TRUNCATED),
    "BMP cut": (FEATURISED["BMP"][:-20], Reason.TRUNCATED),
    "WebP cut": (FEATURISED["WebP"][:-20], Reason.UNREADABLE),
    "PNG with a flipped bit": (PNG[:300] + bytes([PNG[300] ^ 1]) + PNG[301:], Reason.UNREADABLE),
    "30,000 x 30,000": (png_of_size(30_000, 30_000), Reason.TOO_LARGE),
    "more pixels than a number holds": (png_of_size(2**31 - 1, 2**31 - 1), Reason.TOO_LARGE),
    "animated GIF": (animated("GIF"), Reason.UNSUPPORTED),
    "animated WebP": (animated("WEBP"), Reason.UNSUPPORTED),
    "animated PNG": (animated("PNG"), Reason.UNSUPPORTED),
    "animated AVIF": (animated("AVIF"), Reason.UNSUPPORTED),
}


@pytest.mark.parametrize("name", REJECTED)
def test_everything_else_is_rejected_with_its_reason(name: str):
    data, reason = REJECTED[name]
    with pytest.raises(Undecodable) as rejected:
        decode(data)
    assert rejected.value.reason is reason, str(rejected.value)
    assert str(rejected.value)


@pytest.mark.parametrize("cut", ["JPEG cut in its pixels", "JPEG without its last two bytes", "progressive JPEG cut"])
def test_opencv_alone_would_have_filled_the_rest_with_grey(tmp_path: Path, cut: str):
    path = tmp_path / "picture.jpg"
    path.write_bytes(REJECTED[cut][0])
    assert cv2.imread(str(path)).shape == (48, 64, 3)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("Pillow decoded it"))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV decoded it"))
    with pytest.raises(Undecodable, match=r"30000 x 30000 is 900,000,000 pixels; the limit is 134,217,728"):
        decode(REJECTED["30,000 x 30,000"][0])


def test_the_limit_is_the_caller_s():
    assert decode(JPEG, max_pixels=64 * 48).shape == (48, 64, 3)
    with pytest.raises(Undecodable, match="64 x 48"):
        decode(JPEG, max_pixels=64 * 48 - 1)
    assert MAX_PIXELS < 30_000 * 30_000
