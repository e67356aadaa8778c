"""Our numbers against the reference's own, on every golden image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from extractor.core.contract import Regions
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.pool import decode
from resnext101_mmf.cpu.one_by_one import proposed, rois
from resnext101_mmf.detector import Detector

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in (GOLDEN / "images").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_gives_the_reference_s_rows_in_the_reference_s_order(found: Callable[[str], Regions], name: str):
    expected = np.load(GOLDEN / "resnext101" / f"{name}.npz")
    regions = found(name)

    np.testing.assert_allclose(regions.boxes, expected["bbox"], rtol=0, atol=0.05)
    np.testing.assert_array_equal(regions.obj_id, expected["objects"])
    assert (regions.num_boxes, len(regions.boxes)) == (expected["num_boxes"], 100)
    assert (regions.img_w, regions.img_h) == (expected["image_width"], expected["image_height"])
    assert cosines(regions.features, expected["features"]).min() >= 0.99999
    best = np.take_along_axis(regions.cls_prob, expected["cls_prob_top5_idx"].astype(np.int64), axis=1)
    np.testing.assert_allclose(best, expected["cls_prob_top5"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(regions.cls_prob.sum(axis=1), expected["cls_prob_rowsum"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(regions.obj_conf, regions.cls_prob.max(axis=1))


@pytest.mark.parametrize("name", ["china", "rocket_rgba", "chelsea_exif6", "chelsea_gray"])
def test_with_mmf_s_own_reader_the_rows_are_its_own(detector: Detector, name: str):
    """Read by Pillow: not rotated, and colours less the mean of their own channel."""
    expected = np.load(GOLDEN / "resnext101_pil" / f"{name}.npz")
    (path,) = (GOLDEN / "images").glob(f"{name}.*")
    (regions,) = detector.detect([detector.prepare(decode(path.read_bytes(), reader=Reader.PILLOW))])

    np.testing.assert_allclose(regions.boxes, expected["bbox"], rtol=0, atol=0.05)
    np.testing.assert_array_equal(regions.obj_id, expected["objects"])
    assert (regions.img_w, regions.img_h) == (expected["image_width"], expected["image_height"])
    assert cosines(regions.features, expected["features"]).min() >= 0.99999
    np.testing.assert_allclose(regions.cls_prob.sum(axis=1), expected["cls_prob_rowsum"], rtol=0, atol=1e-4)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_every_class_probability_is_the_reference_s(found: Callable[[str], Regions]):
    expected = np.load(GOLDEN / "resnext101" / "china_intermediate.npz")
    np.testing.assert_allclose(found("china").cls_prob, expected["cls_prob_full"], rtol=0, atol=1e-4)


def test_the_tensors_on_the_way_are_the_reference_s(detector: Detector):
    expected = np.load(GOLDEN / "resnext101" / "china_intermediate.npz")
    prepared = detector.prepare(decode((GOLDEN / "images" / "china.jpg").read_bytes()))
    crop = prepared.tensor[:, 100:116, 100:116]
    np.testing.assert_allclose(crop, expected["resized_crop_3x16x16_at_100_100"], rtol=0, atol=1e-3)
    assert prepared.scale == expected["im_scale"]

    with torch.inference_mode():
        maps = detector.network.maps(prepared.tensor[None])
        proposals = proposed(detector.proposer, maps, prepared)
        boxes, objectness = proposals.of(0), proposals.objectness[0]
        levels, _ = rois(boxes, detector.config.roi_box_head)

    tensors = {"input_padded": prepared.tensor[None]}
    for level in range(5):
        tensors[f"P{level + 2}"] = maps.pyramid[level]
        tensors[f"rpn_logits_P{level + 2}"] = maps.objectness[level]
        tensors[f"rpn_deltas_P{level + 2}"] = maps.deltas[level]
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == tuple(expected[f"{name}_shape"]), name
        sample = tensor.reshape(-1)[torch.from_numpy(expected[f"{name}_sample_idx"])]
        np.testing.assert_allclose(sample, expected[f"{name}_sample"], rtol=0, atol=1e-4, err_msg=name)

    # Proposals of exactly equal objectness stand in the order of the flat anchors here, in any order there.
    distance = np.abs(boxes.numpy()[None] - expected["proposals_all"][:, None]).max(axis=2)
    place = distance.argmin(axis=1)
    np.testing.assert_array_equal(np.sort(place), np.arange(1000))
    assert distance.min(axis=1).max() < 0.05
    np.testing.assert_allclose(objectness[place], expected["objectness_all"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(objectness, expected["objectness_all"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(levels[place], expected["fpn_level_of_proposal"])
