"""One stated outcome for every kind of image: the table "Bad input" of the extractor's README."""

import contextlib
import io
import os
import random
import signal
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import (
    IMAGE,
    TURNED,
    animated,
    blots,
    encoded,
    noted,
    odd_scan,
    png_of_size,
    prompted,
    sixteen_bits,
    tiff,
    turned,
    with_note,
)
from PIL import Image

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode import header, jpeg
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.pool import DecodeLimits, Decoders, decode

GOLDEN = Path(__file__).parents[1] / "golden" / "images"

JPEG = encoded(IMAGE, "JPEG")
PROGRESSIVE = encoded(IMAGE, "JPEG", progressive=True)
MPO = encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)])
FEATURISED = {
    "JPEG": JPEG,
    "progressive JPEG": PROGRESSIVE,
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
    "JPEG of several images (MPO)": MPO,
    "still GIF": encoded(IMAGE, "GIF"),
    "WebP": encoded(IMAGE, "WEBP"),
    "AVIF": encoded(IMAGE, "AVIF"),
    "BMP": encoded(IMAGE, "BMP"),
    "TIFF": encoded(IMAGE, "TIFF"),
    "TIFF of several pages": animated("TIFF"),
    "TIFF of several pages, cut behind the first": animated("TIFF")[:9450],
    "JPEG of several images, cut behind the first": MPO[: MPO.index(b"\xff\xd9") + 300],
    "TIFF in tiles": tiff(tile=(16, 16), photometric="rgb"),
    "TIFF in planes": tiff(np.asarray(IMAGE).transpose(2, 0, 1), planarconfig="separate", photometric="rgb"),
    "TIFF of 64 bits": tiff(bigtiff=True, photometric="rgb"),
    "TIFF compressed by LZW": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "TIFF of signed bytes": tiff(np.asarray(IMAGE).astype(np.int8), photometric="rgb"),
    "JPEG 2000": encoded(IMAGE, "JPEG2000"),
    "lossless WebP": encoded(IMAGE, "WEBP", lossless=True),
    "WebP with alpha": encoded(IMAGE.convert("RGBA"), "WEBP"),
    "EXIF-rotated WebP": turned("WEBP", 6),
    "EXIF-rotated AVIF": turned("AVIF", 6),
    "EXIF-mirrored TIFF": turned("TIFF", 4),
    "PNG with a wrong check sum in a note": encoded(IMAGE, "PNG", pnginfo=noted("made by")).replace(b"made", b"MADE"),
    "JPEG with stray bytes before its end": JPEG[:-2] + b"stray" + JPEG[-2:],
    "JPEG of an unknown JFIF version": JPEG.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "JPEG with odd scan parameters": odd_scan(JPEG),
    "JPEG with restarts": cv2.imencode(".jpg", np.asarray(IMAGE), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
}


@pytest.mark.parametrize("name", FEATURISED)
def test_what_the_reference_can_read_is_read_as_it_reads_it(tmp_path: Path, name: str):
    path = tmp_path / "image.jpg"
    path.write_bytes(FEATURISED[name])
    np.testing.assert_array_equal(decode(FEATURISED[name]), cv2.imread(str(path)))


def test_a_rotated_photo_stands_upright():
    assert Image.open(GOLDEN / "chelsea_exif6.jpg").size == (451, 300)
    assert decode(FEATURISED["EXIF-rotated JPEG"]).shape == (451, 300, 3)


@pytest.mark.parametrize(
    "name", ["EXIF-rotated JPEG", "RGBA PNG", "grey JPEG", "palette PNG", "CMYK JPEG", "EXIF-rotated TIFF"]
)
def test_mmf_s_own_reader_gives_what_pillow_gives(name: str):
    """As the image lies, in RGB order; also where `cv2.imread` reads nothing."""
    data = FEATURISED.get(name) or REJECTED[name][0]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, reader=Reader.PILLOW), expected)


@pytest.mark.parametrize("name", ["JPEG cut in its pixels and closed", "JPEG cut in its pixels", "PNG cut", "WebP cut"])
def test_mmf_s_own_reader_takes_no_image_for_whole_that_is_not(name: str):
    with pytest.raises(Undecodable) as rejected:
        decode(REJECTED[name][0], reader=Reader.PILLOW)
    assert rejected.value.reason in (RejectReason.TRUNCATED, RejectReason.UNREADABLE)


def test_alpha_is_dropped_and_not_blended():
    rgba = np.asarray(Image.open(GOLDEN / "rocket_rgba.png"))
    np.testing.assert_array_equal(decode(FEATURISED["RGBA PNG"]), rgba[:, :, 2::-1])


def test_16_bits_lose_the_lower_8():
    np.testing.assert_array_equal(decode(FEATURISED["16-bit RGB PNG"]), np.asarray(IMAGE))


def with_flipped_bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def framed(plain: bytes, *, marker: int | None = None, precision: int = 8, lines: int = 48) -> bytes:
    """A JPEG with another frame header: its kind, its bits a sample, its height."""
    (frame,) = (segment for segment in jpeg.segments(plain) if segment.marker in jpeg.FRAMES)
    body = struct.pack(">BBHBH", 0xFF, marker or frame.marker, frame.end - frame.start + 2, precision, lines)
    return plain[: frame.start - 4] + body + plain[frame.start + 3 :]


def first_scans(count: int) -> bytes:
    """A progressive JPEG that is closed by an end mark behind some of its ten scans."""
    scans = [segment for segment in jpeg.segments(PROGRESSIVE) if segment.marker == jpeg.SOS]
    return PROGRESSIVE[: scans[count].start - 4] + END


def restarts_without_one() -> bytes:
    whole = FEATURISED["JPEG with restarts"]
    return whole[: whole.index(b"\xff\xd3")] + whole[whole.index(b"\xff\xd4") :]


END, PNG = b"\xff\xd9", FEATURISED["grey PNG"]
FIVE_SAMPLES = tiff(np.zeros((48, 64, 5), np.uint8), photometric="minisblack", planarconfig="contig")
FLOATS = np.asarray(IMAGE).astype(np.float32) / 255
REJECTED = {
    "no bytes": (b"", RejectReason.EMPTY),
    "zero bytes": (bytes(1000), RejectReason.NOT_AN_IMAGE),
    "HTML": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", RejectReason.NOT_AN_IMAGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', RejectReason.UNSUPPORTED),
    "PDF": (b"%PDF-1.7\n", RejectReason.NOT_AN_IMAGE),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), RejectReason.UNSUPPORTED),
    "MP4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(500), RejectReason.NOT_AN_IMAGE),
    "WAV": (b"RIFF\x90\1\0\0WAVEfmt " + bytes(400), RejectReason.NOT_AN_IMAGE),
    "text that begins with BM": (b"BMW cars are listed here", RejectReason.NOT_AN_IMAGE),
    "longer text that begins with BM": (b"BMW cars are listed here. " * 20, RejectReason.NOT_AN_IMAGE),
    "JPEG cut in its header": (JPEG[:20], RejectReason.TRUNCATED),
    "JPEG cut before its pixels": (JPEG[:600], RejectReason.TRUNCATED),
    "JPEG cut in its pixels": (JPEG[:900], RejectReason.TRUNCATED),
    "JPEG without its last two bytes": (JPEG[:-2], RejectReason.TRUNCATED),
    "JPEG with a broken Adobe note, cut": (FEATURISED["JPEG with a broken Adobe note"][:-2], RejectReason.TRUNCATED),
    "progressive JPEG cut": (FEATURISED["progressive JPEG"][:-40], RejectReason.TRUNCATED),
    "PNG cut": (PNG[:-40], RejectReason.TRUNCATED),
    "AVIF cut": (FEATURISED["AVIF"][:-20], RejectReason.TRUNCATED),
    "BMP cut": (FEATURISED["BMP"][:-20], RejectReason.TRUNCATED),
    "BMP cut in its header": (FEATURISED["BMP"][:20], RejectReason.TRUNCATED),
    "TIFF cut before its directory": (FEATURISED["TIFF"][:6], RejectReason.TRUNCATED),
    "TIFF cut in the directory of its first page": (FEATURISED["TIFF of several pages"][:5000], RejectReason.TRUNCATED),
    "animated GIF cut where its second image begins": (animated("GIF")[:3353], RejectReason.TRUNCATED),
    "animated GIF cut in its second image's header": (animated("GIF")[:3365], RejectReason.TRUNCATED),
    "AVIF with a flipped bit": (with_flipped_bit(FEATURISED["AVIF"], 81), RejectReason.UNREADABLE),
    "WebP cut": (FEATURISED["WebP"][:-20], RejectReason.TRUNCATED),
    "PNG with a flipped bit": (with_flipped_bit(PNG, 300), RejectReason.UNREADABLE),
    "30,000 x 30,000": (png_of_size(30_000, 30_000), RejectReason.TOO_LARGE),
    "more pixels than a number holds": (png_of_size(2**31 - 1, 2**31 - 1), RejectReason.TOO_LARGE),
    "animated GIF": (animated("GIF"), RejectReason.UNSUPPORTED),
    "animated WebP": (animated("WEBP"), RejectReason.UNSUPPORTED),
    "animated PNG": (animated("PNG"), RejectReason.UNSUPPORTED),
    "animated AVIF": (animated("AVIF"), RejectReason.UNSUPPORTED),
    "WebP cut in its header": (FEATURISED["WebP"][:24], RejectReason.TRUNCATED),
    "JPEG 2000 cut": (FEATURISED["JPEG 2000"][:-20], RejectReason.TRUNCATED),
    "PNG without its end chunk": (PNG[:-12], RejectReason.TRUNCATED),
    "GIF without its last two bytes": (FEATURISED["still GIF"][:-2], RejectReason.TRUNCATED),
    "TIFF in tiles, cut": (FEATURISED["TIFF in tiles"][:-2000], RejectReason.TRUNCATED),
    "JPEG cut in its pixels and closed": (JPEG[:900] + END, RejectReason.TRUNCATED),
    "the same with odd scan parameters": (odd_scan(JPEG[:900] + END), RejectReason.TRUNCATED),
    "the same of an unknown JFIF version": (
        FEATURISED["JPEG of an unknown JFIF version"][:900] + END,
        RejectReason.TRUNCATED,
    ),
    "JPEG that claims 65,500 lines": (framed(JPEG, lines=65_500), RejectReason.TRUNCATED),
    "JPEG without one of its restarts": (restarts_without_one(), RejectReason.TRUNCATED),
    "progressive JPEG of three scans, closed": (first_scans(3), RejectReason.TRUNCATED),
    "progressive JPEG of nine scans, closed": (first_scans(9), RejectReason.TRUNCATED),
    "progressive JPEG cut in its last scan and closed": (PROGRESSIVE[:-30] + END, RejectReason.TRUNCATED),
    "JPEG with codes that are none": (JPEG[:700] + b"\xff\0" * 4 + JPEG[708:], RejectReason.UNREADABLE),
    "12-bit JPEG": (framed(JPEG, marker=0xC1, precision=12), RejectReason.UNSUPPORTED),
    "lossless JPEG of 16 bits": (framed(JPEG, marker=0xC3, precision=16), RejectReason.UNSUPPORTED),
    "JPEG-LS": (framed(JPEG, marker=0xF7), RejectReason.UNSUPPORTED),
    "hierarchical JPEG": (framed(JPEG, marker=0xC5), RejectReason.UNSUPPORTED),
    "JPEG whose height stands behind its pixels": (framed(JPEG, lines=0), RejectReason.UNSUPPORTED),
    "TIFF of floating-point samples": (tiff(FLOATS, photometric="rgb"), RejectReason.UNSUPPORTED),
    "TIFF of 32 bits": (tiff(np.asarray(IMAGE.convert("L")).astype(np.uint32)), RejectReason.UNSUPPORTED),
    "TIFF of five samples": (FIVE_SAMPLES, RejectReason.UNSUPPORTED),
    "TIFF compressed by zstd": (encoded(IMAGE, "TIFF", compression="zstd"), RejectReason.UNSUPPORTED),
    "EXIF-rotated TIFF": (turned("TIFF", 6), RejectReason.UNSUPPORTED),
    "grey PFM": (b"Pf\n64 48\n-1.0\n" + FLOATS[:, :, 0].tobytes(), RejectReason.UNSUPPORTED),
    "colour PFM": (b"PF\n64 48\n-1.0\n" + FLOATS.tobytes(), RejectReason.UNSUPPORTED),
    "PAM": (cv2.imencode(".pam", np.asarray(IMAGE))[1].tobytes(), RejectReason.UNSUPPORTED),
    "Radiance": (cv2.imencode(".hdr", FLOATS)[1].tobytes(), RejectReason.UNSUPPORTED),
    "Sun raster": (cv2.imencode(".ras", np.asarray(IMAGE))[1].tobytes(), RejectReason.UNSUPPORTED),
    "JPEG XL": (b"\xff\x0a" + bytes(100), RejectReason.UNSUPPORTED),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), RejectReason.UNSUPPORTED),
    "PNG with a wrong check sum in its pixels": (PNG.replace(PNG[-16:-12], b"none"), RejectReason.UNREADABLE),
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
            assert decode(bytes(damaged), DecodeLimits(max_pixels=100_000)).shape[2] == 3


@pytest.mark.parametrize("cut", ["JPEG cut in its pixels", "JPEG without its last two bytes", "progressive JPEG cut"])
def test_opencv_alone_would_have_filled_the_rest_with_grey(tmp_path: Path, cut: str):
    path = tmp_path / "image.jpg"
    path.write_bytes(REJECTED[cut][0])
    assert cv2.imread(str(path)).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_an_image_upright(kind: str):
    np.testing.assert_array_equal(decode(turned(kind, 6)), np.rot90(decode(encoded(IMAGE, kind)), -1))


def test_exif_mirrors_a_tiff_and_leaves_an_avif_as_it_is():
    np.testing.assert_array_equal(decode(turned("TIFF", 4)), decode(FEATURISED["TIFF"])[::-1])
    np.testing.assert_array_equal(decode(turned("AVIF", 6)), decode(FEATURISED["AVIF"]))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("12-bit JPEG", "^12-bit JPEG;"),
        ("lossless JPEG of 16 bits", "^16-bit lossless JPEG;"),
        ("TIFF of floating-point samples", "^TIFF of floating-point samples, of 32 bits a sample;"),
        ("TIFF compressed by zstd", r"^TIFF compressed by zstd \(50000\);"),
        ("EXIF-rotated TIFF", "^TIFF of orientation 6; cv2.imread reads nothing of it, and the references could not"),
        ("JPEG cut in its pixels and closed", "libjpeg: Corrupt JPEG data: premature end of data segment"),
        (
            "progressive JPEG of three scans, closed",
            "its 3 scans leave out all or part of 64 coefficients of component 1",
        ),
        ("Radiance", "^Radiance HDR: expected one of JPEG, PNG"),
        ("PNG with a wrong check sum in its pixels", "libpng error: IDAT: CRC error"),
    ],
)
def test_a_reject_says_what_is_wrong(name: str, told: str):
    with pytest.raises(Undecodable, match=told):
        decode(REJECTED[name][0])


@pytest.mark.parametrize("name", ["TIFF in tiles", "EXIF-rotated TIFF"])
def test_the_truth_is_imread_where_imdecode_differs(tmp_path: Path, name: str):
    """Should OpenCV's two functions agree one day, the table can say less."""
    data = FEATURISED.get(name) or REJECTED[name][0]
    path = tmp_path / "image.tif"
    path.write_bytes(data)
    read, decoded = cv2.imread(str(path)), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert (read is None) != (decoded is None)


@pytest.mark.parametrize("name", ["30,000 x 30,000", "more pixels than a number holds"])
def test_a_bomb_is_refused_by_its_header(name: str):
    _, found = header.look(REJECTED[name][0])
    with pytest.raises(Undecodable, match=r"is [\d,]+ pixels; the limit is 134,217,728"):
        header.check(found, DecodeLimits.max_pixels)


def test_a_chunk_that_claims_gigabytes_costs_none():
    """The high byte of a PNG's chunk length: its pixels are whole, and OpenCV would set aside 3 GB for them."""
    place = PNG.index(b"IDAT") - 4
    with pytest.raises(Undecodable, match="a chunk claims 3,") as rejected:
        header.look(PNG[:place] + b"\xce" + PNG[place + 1 :])
    assert rejected.value.reason is RejectReason.TRUNCATED


def test_the_limit_is_the_caller_s():
    assert decode(JPEG, DecodeLimits(max_pixels=64 * 48)).shape == (48, 64, 3)
    with pytest.raises(Undecodable, match="64 x 48"):
        decode(JPEG, DecodeLimits(max_pixels=64 * 48 - 1))
    assert DecodeLimits.max_pixels < 30_000 * 30_000


def test_a_tile_may_not_be_much_larger_than_its_image(monkeypatch):
    _, found = header.look(tiff(tile=(256, 256), photometric="rgb"))
    header.check(found, DecodeLimits.max_pixels)
    monkeypatch.setattr(header, "MAX_TILE", 128 * 128)
    with pytest.raises(Undecodable, match="a tile of 256 x 256 pixels for an image of 64 x 48") as rejected:
        header.check(found, DecodeLimits.max_pixels)
    assert rejected.value.reason is RejectReason.TOO_COSTLY


def test_scans_are_counted(monkeypatch):
    _, found = header.look(PROGRESSIVE)
    header.check(found, DecodeLimits.max_pixels)
    monkeypatch.setattr(header, "MAX_SCANS", 9)
    with pytest.raises(Undecodable, match="10 scans in one JPEG; the limit is 9") as rejected:
        header.check(found, DecodeLimits.max_pixels)
    assert rejected.value.reason is RejectReason.TOO_COSTLY


def after(ended_by: signal.Signals, limits: DecodeLimits) -> np.ndarray:
    """An image decoded by a process that receives a signal in between."""
    with Decoders().opened(JPEG, limits) as image:
        os.kill(image.pid, ended_by)
        return image.decode()


def test_a_decoder_that_hangs_without_computing_is_ended():
    with pytest.raises(Undecodable, match="or 1 in all") as rejected:
        after(signal.SIGSTOP, DecodeLimits(seconds=0.1))
    assert rejected.value.reason is RejectReason.TOO_COSTLY


@pytest.mark.parametrize(
    ("ended_by", "raises", "told"),
    [
        (signal.SIGSEGV, Undecodable, r"the decoder crashes on it \(SIGSEGV\)"),
        (signal.SIGKILL, MemoryError, "as the kernel does when memory is short"),
        (signal.SIGTERM, RuntimeError, "ended by somebody else: SIGTERM"),
    ],
)
def test_the_end_of_a_decoder_is_the_image_s_fault_only_when_it_crashed(ended_by, raises, told):
    with pytest.raises(raises, match=told):
        after(ended_by, DecodeLimits())


def test_one_process_decodes_one_image_after_the_other():
    decoders, pids = Decoders(), set()
    for data in (JPEG, REJECTED["PNG cut"][0], JPEG):
        with contextlib.suppress(Undecodable), decoders.opened(data, DecodeLimits()) as image:
            pids.add(image.pid)
            image.decode()
    decoders.end()
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)
