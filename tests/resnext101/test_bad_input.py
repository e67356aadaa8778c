"""A stated outcome for every kind of image that is not a plain JPEG, on its way into this network.

What no detector could read is refused when it is decoded; here is what becomes of the rest, and of odd sizes.
"""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from extractor.backbone import Unfit
from extractor.core.manifest import RejectReason
from extractor.core.rejection import Undecodable
from extractor.pipeline.decode.pool import decode
from resnext101_mmf.detector import Detector
from resnext101_mmf.resize import MEAN, prepare, resize_factor

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
CHINA = (GOLDEN / "china.jpg").read_bytes()
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def blank(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height), (200, 100, 50)), "PNG")


REFUSED = {
    "truncated JPEG": (CHINA[:100_000], RejectReason.TRUNCATED),
    "zero bytes": (b"", RejectReason.EMPTY),
    "HTML named .jpg": (b"<!DOCTYPE html><html><body>404</body></html>", RejectReason.NOT_AN_IMAGE),
    "decompression bomb": (encoded(Image.new("1", (30_000, 30_000)), "PNG"), RejectReason.TOO_LARGE),
    "animated GIF": (
        encoded(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(90)]),
        RejectReason.UNSUPPORTED,
    ),
}
SIXTEEN_BITS = cv2.imencode(".png", np.asarray(IMAGE).astype(np.uint16) * 257)[1].tobytes()
FEATURISED = {
    "1 x 1": (blank(1, 1), (800, 800)),
    "1600 x 20": (blank(1600, 20), (32, 1344)),
    "20 x 1600": (blank(20, 1600), (1344, 32)),
    "greyscale": (encoded(IMAGE.convert("L"), "JPEG"), (800, 1088)),
    "grey+alpha": (encoded(IMAGE.convert("LA"), "PNG"), (800, 1088)),
    "RGBA": (encoded(IMAGE.convert("RGBA"), "PNG"), (800, 1088)),
    "palette PNG": (encoded(IMAGE.convert("P"), "PNG"), (800, 1088)),
    "CMYK JPEG": (encoded(IMAGE.convert("CMYK"), "JPEG"), (800, 1088)),
    "16-bit PNG": (SIXTEEN_BITS, (800, 1088)),
    "EXIF-rotated photo": (encoded(IMAGE, "JPEG", exif=TURNED), (1088, 800)),
    "WebP": (encoded(IMAGE, "WEBP"), (800, 1088)),
    "AVIF": (encoded(IMAGE, "AVIF"), (800, 1088)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_with_its_reason(kind: str):
    data, reason = REFUSED[kind]
    with pytest.raises(Undecodable) as error:
        decode(data)
    assert error.value.reason == reason


@pytest.mark.parametrize("kind", FEATURISED)
def test_every_other_image_has_its_input(kind: str):
    data, shape = FEATURISED[kind]
    prepared = prepare(decode(data))
    assert prepared.shape == shape
    assert prepared.tensor.shape == (3, *shape)
    assert torch.isfinite(prepared.tensor).all()


@pytest.mark.parametrize("kind", ["1600 x 20", "20 x 1600"])
def test_a_strip_without_any_content_is_featurised(detector: Detector, kind: str):
    (found,) = detector.detect([detector.prepare(decode(FEATURISED[kind][0]))])
    assert len(found.boxes) == 100
    assert np.isfinite(found.features).all()


def test_a_grey_image_has_three_equal_channels_less_their_means():
    tensor = prepare(decode(FEATURISED["greyscale"][0])).tensor[:, :800, :1066]
    red, green, _ = (tensor[channel] + float(MEAN[channel]) for channel in range(3))
    torch.testing.assert_close(red, green, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("width", "height"), [(4000, 1), (1, 2667), (100_000, 20)])
def test_an_image_whose_short_side_resizes_to_nothing_is_unfit(width: int, height: int):
    with pytest.raises(Unfit, match=f"{width} x {height}"):
        prepare(np.zeros((height, width, 3), np.uint8))


def test_half_a_pixel_is_rounded_to_even_as_opencv_does():
    # 1333 / 2666 is one half: one pixel becomes none, three become two.
    with pytest.raises(Unfit):
        prepare(np.zeros((1, 2666, 3), np.uint8))
    tensor = prepare(np.full((3, 2666, 3), 255, np.uint8)).tensor
    assert torch.count_nonzero(tensor.abs().sum(dim=(0, 2))) == 2


def test_channels_keep_the_reference_s_order():
    """Blue 10, green 20, red 30: the network sees red first, less the mean that is meant for blue."""
    tensor = prepare(np.full((800, 800, 3), (10, 20, 30), np.uint8)).tensor
    expected = torch.from_numpy((np.array([30, 20, 10]) - MEAN).astype(np.float32))
    torch.testing.assert_close(tensor[:, 0, 0], expected, rtol=0, atol=0)


def test_padding_is_zero_at_right_and_bottom_only():
    tensor = prepare(np.full((427, 640, 3), 255, np.uint8)).tensor
    assert tensor.shape == (3, 800, 1216)
    assert not tensor[:, :, 1199:].any()
    assert tensor[:, :, :1199].all()


@pytest.mark.parametrize(
    ("width", "height", "factor"), [(640, 427, 800 / 427), (1600, 200, 1333 / 1600), (800, 800, 1.0), (1333, 800, 1.0)]
)
def test_the_short_side_becomes_800_unless_the_long_one_passes_1333(width: int, height: int, factor: float):
    assert resize_factor(width, height) == resize_factor(height, width) == factor
