"""Our numbers against the reference's own, on every golden image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extractor.pipeline.decode.pool import decode
from resnet101_detectron2.detector import Detector
from resnet101_detectron2.image import network_input

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in (GOLDEN / "images").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_gives_the_reference_s_numbers(detector: Detector, name: str):
    (image,) = (GOLDEN / "images").glob(f"{name}.*")
    expected = np.load(GOLDEN / "resnet101" / f"{name}.npz")
    prepared = detector.prepare(decode(image.read_bytes()))
    assert prepared.shape == tuple(expected["dbg_input_hw"])

    (found,) = detector.detect([prepared])

    for field in ("obj_id", "attr_id", "img_w", "img_h"):
        np.testing.assert_array_equal(getattr(found, field), expected[field], err_msg=field)
    assert found.num_boxes == 36
    np.testing.assert_allclose(found.boxes, expected["boxes"], rtol=0, atol=0.05)
    np.testing.assert_allclose(found.obj_conf, expected["obj_conf"], rtol=1e-3)
    np.testing.assert_allclose(found.attr_conf, expected["attr_conf"], rtol=1e-3)
    largest = np.abs(expected["features"]).max(axis=1, keepdims=True)
    np.testing.assert_array_less(np.abs(found.features - expected["features"]) / largest, 1e-3)
    assert cosines(found.features, expected["features"]).min() >= 0.99999


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_the_maps_on_the_way_are_the_reference_s(detector: Detector):
    expected = np.load(GOLDEN / "resnet101" / "china_intermediate.npz")
    prepared = detector.prepare(decode((GOLDEN / "images" / "china.jpg").read_bytes()))
    with torch.inference_mode():
        pixels = network_input([prepared], prepared.shape, detector.options.device)
        features = detector.network.backbone(pixels)["res4"]
        (logits,), (deltas,) = detector.network.proposal_generator.rpn_head([features])
    for name, tensor in {
        "input": pixels,
        "res4": features,
        "rpn_logits": logits,
        "rpn_deltas": deltas,
    }.items():
        assert tensor.numel() == np.prod(expected[f"{name}_shape"]), name
        sample = tensor.reshape(-1).numpy()[expected[f"{name}_sample_idx"]]
        np.testing.assert_allclose(sample, expected[f"{name}_sample"], rtol=1e-4, atol=1e-4, err_msg=name)
