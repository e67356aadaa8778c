"""One stated outcome for every kind of image: the table "Bad input" of the extractor's README."""

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from extractor.core.manifest import MAX_PIXELS, Reason
from extractor.pipeline.decode import Undecodable, decode

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
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


FEATURISED = {
    "JPEG": encoded(IMAGE, "JPEG"),
    "progressive JPEG": encoded(IMAGE, "JPEG", progressive=True),
    "JPEG with bytes after its end": encoded(IMAGE, "JPEG") + b"something else",
    "JPEG with a broken Adobe note": with_note(0xFFEE, b"Adobe"),
    "JPEG with a broken colour profile": with_note(0xFFE2, b"ICC_PROFILE\0\1"),
    "JPEG with a broken Photoshop note": with_note(0xFFED, b"Photoshop 3.0\x008BIM\3\xed"),
    "1 x 1": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
    "1600 x 20": encoded(blots(1600, 20), "PNG"),
    "grey JPEG": encoded(IMAGE.convert("L"), "JPEG"),
    "grey PNG": encoded(IMAGE.convert("L"), "PNG"),
    "black and white PNG": encoded(IMAGE.convert("1"), "PNG"),
    "grey and alpha PNG": encoded(IMAGE.convert("LA"), "PNG"),
    "RGBA PNG": (GOLDEN / "rocket_rgba.png").read_bytes(),
    "palette PNG": encoded(IMAGE.quantize(64), "PNG"),
    "palette PNG with a transparent colour": encoded(IMAGE.quantize(64), "PNG", transparency=3),
    "CMYK JPEG": encoded(IMAGE.convert("CMYK"), "JPEG"),
    "16-bit grey PNG": sixteen_bits(1),
    "16-bit RGB PNG": sixteen_bits(3),
    "PNG with much compressed text": encoded(IMAGE, "PNG", pnginfo=prompted()),
    "EXIF-rotated JPEG": (GOLDEN / "chelsea_exif6.jpg").read_bytes(),
    "EXIF-rotated PNG": encoded(IMAGE, "PNG", exif=TURNED),
    "JPEG of several images (MPO)": encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)]),
    "still GIF": encoded(IMAGE, "GIF"),
    "WebP": encoded(IMAGE, "WEBP"),
    "AVIF": encoded(IMAGE, "AVIF"),
    "BMP": encoded(IMAGE, "BMP"),
    "TIFF": encoded(IMAGE, "TIFF"),
    "TIFF of several pages": animated("TIFF"),
    "JPEG 2000": encoded(IMAGE, "JPEG2000"),
}


@pytest.mark.parametrize("name", FEATURISED)
def test_what_the_reference_can_read_is_read_as_it_reads_it(tmp_path: Path, name: str):
    path = tmp_path / "image.jpg"
    path.write_bytes(FEATURISED[name])
    np.testing.assert_array_equal(decode(FEATURISED[name]), cv2.imread(str(path)))


def test_a_rotated_photo_stands_upright():
    assert Image.open(GOLDEN / "chelsea_exif6.jpg").size == (451, 300)
    assert decode(FEATURISED["EXIF-rotated JPEG"]).shape == (451, 300, 3)


def test_alpha_is_dropped_and_not_blended():
    rgba = np.asarray(Image.open(GOLDEN / "rocket_rgba.png"))
    np.testing.assert_array_equal(decode(FEATURISED["RGBA PNG"]), rgba[:, :, 2::-1])


def test_16_bits_lose_the_lower_8():
    np.testing.assert_array_equal(decode(FEATURISED["16-bit RGB PNG"]), np.asarray(IMAGE))


def with_flipped_bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


JPEG, PNG = FEATURISED["JPEG"], FEATURISED["grey PNG"]
REJECTED = {
    "no bytes": (b"", Reason.EMPTY),
    "zero bytes": (bytes(1000), Reason.NOT_AN_IMAGE),
    "HTML": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", Reason.NOT_AN_IMAGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.NOT_AN_IMAGE),
    "PDF": (b"%PDF-1.7\n", Reason.NOT_AN_IMAGE),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), Reason.NOT_AN_IMAGE),
    "MP4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(500), Reason.NOT_AN_IMAGE),
    "WAV": (b"RIFF\x90\1\0\0WAVEfmt " + bytes(400), Reason.NOT_AN_IMAGE),
    "text that begins with BM": (b"BMW cars are listed here", Reason.NOT_AN_IMAGE),
    "longer text that begins with BM": (b"BMW cars are listed here. " * 20, Reason.NOT_AN_IMAGE),
    "JPEG cut in its header": (JPEG[:20], Reason.TRUNCATED),
    "JPEG cut before its pixels": (JPEG[:600], Reason.TRUNCATED),
    "JPEG cut in its pixels": (JPEG[:900], Reason.TRUNCATED),
    "JPEG without its last two bytes": (JPEG[:-2], Reason.TRUNCATED),
    "JPEG with a broken Adobe note, cut": (FEATURISED["JPEG with a broken Adobe note"][:-2], Reason.TRUNCATED),
    "progressive JPEG cut": (FEATURISED["progressive JPEG"][:-40], Reason.TRUNCATED),
    "PNG cut": (PNG[:-40], Reason.TRUNCATED),
    "AVIF cut": (FEATURISED["AVIF"][:-20], Reason.TRUNCATED),
    "BMP cut": (FEATURISED["BMP"][:-20], Reason.TRUNCATED),
    "BMP cut in its header": (FEATURISED["BMP"][:20], Reason.TRUNCATED),
    "TIFF cut before its directory": (FEATURISED["TIFF"][:6], Reason.TRUNCATED),
    "TIFF cut in the directory of its first page": (FEATURISED["TIFF of several pages"][:5000], Reason.TRUNCATED),
    "TIFF cut in the directory of its second page": (FEATURISED["TIFF of several pages"][:9450], Reason.UNREADABLE),
    "animated GIF cut where its second image begins": (animated("GIF")[:3353], Reason.TRUNCATED),
    "animated GIF cut in its second image's header": (animated("GIF")[:3365], Reason.TRUNCATED),
    "AVIF with a flipped bit": (with_flipped_bit(FEATURISED["AVIF"], 81), Reason.UNREADABLE),
    "WebP cut": (FEATURISED["WebP"][:-20], Reason.UNREADABLE),
    "PNG with a flipped bit": (with_flipped_bit(PNG, 300), Reason.UNREADABLE),
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


ANIMATED = {f"animated {kind}": animated(kind) for kind in ("GIF", "WEBP", "PNG", "AVIF")}


@pytest.mark.parametrize("name", [*FEATURISED, *ANIMATED])
def test_whatever_becomes_of_an_image_s_bytes_is_pixels_or_a_reject(name: str):
    """Cuts and wrong bytes, most of them in the header, as storage and networks leave them."""
    sound, chance = (FEATURISED | ANIMATED)[name], random.Random(name)
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(chance.choice((0, 1, 2, 8))):
            damaged[chance.randrange(min(len(sound), chance.choice((64, 300, len(sound)))))] = chance.randrange(256)
        if chance.random() < 0.4:
            del damaged[chance.randrange(len(damaged)) :]
        with contextlib.suppress(Undecodable):
            assert decode(bytes(damaged), max_pixels=100_000).shape[2] == 3


@pytest.mark.parametrize("cut", ["JPEG cut in its pixels", "JPEG without its last two bytes", "progressive JPEG cut"])
def test_opencv_alone_would_have_filled_the_rest_with_grey(tmp_path: Path, cut: str):
    path = tmp_path / "image.jpg"
    path.write_bytes(REJECTED[cut][0])
    assert cv2.imread(str(path)).shape == (48, 64, 3)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("Pillow decoded it"))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV decoded it"))
    with pytest.raises(Undecodable, match=r"30000 x 30000 is 900,000,000 pixels; the limit is 134,217,728"):
        decode(REJECTED["30,000 x 30,000"][0])


def test_a_chunk_that_claims_gigabytes_costs_none(monkeypatch):
    """The high byte of a PNG's chunk length: its pixels are whole, and OpenCV would set aside 3 GB for them."""
    place = PNG.index(b"IDAT") - 4
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV decoded it"))
    with pytest.raises(Undecodable, match="a chunk claims 3,") as rejected:
        decode(PNG[:place] + b"\xce" + PNG[place + 1 :])
    assert rejected.value.reason is Reason.TRUNCATED


def test_the_limit_is_the_caller_s():
    assert decode(JPEG, max_pixels=64 * 48).shape == (48, 64, 3)
    with pytest.raises(Undecodable, match="64 x 48"):
        decode(JPEG, max_pixels=64 * 48 - 1)
    assert MAX_PIXELS < 30_000 * 30_000
