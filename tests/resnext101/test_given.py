"""Boxes that the user gives, against mmf's M4C procedure for them, with IGLUE's reader and with its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import ClsProb, GivenRule
from extractor.core.contract import Regions
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.pool import decode
from resnext101_mmf import load
from resnext101_mmf.detector import Detector
from resnext101_mmf.rows import network_boxes

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [(path.parent.name, path.stem) for path in sorted((GOLDEN / "resnext101_given").rglob("*.npz"))]


@pytest.fixture(scope="module")
def given(resnext101_checkpoint: Path) -> Detector:
    """The detector under the rule of given boxes."""
    return load(Checkpoint(resnext101_checkpoint), Options(GivenRule(), torch.device("cpu")))


def prepared(detector: Detector, name: str, folder: str = "resnext101_given") -> tuple[Prepared, NpzFile]:
    """A golden image with its boxes, and what the reference makes of it."""
    (image,) = (GOLDEN / "images").glob(f"{name}.*")
    (path,) = (GOLDEN / "resnext101_given").parent.rglob(f"{folder}/{name}.npz")
    expected = np.load(path)
    pixels = decode(image.read_bytes(), reader=Reader.PILLOW if folder == "m4c_pil" else Reader.OPENCV)
    return replace(detector.prepare(pixels), boxes=expected["given_boxes"]), expected


def assert_parity(found: Regions, expected: NpzFile) -> None:
    np.testing.assert_array_equal(found.boxes, expected["given_boxes"])
    np.testing.assert_allclose(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.obj_id, expected["obj_id"])
    assert (found.num_boxes, found.img_w, found.img_h) == (12, int(expected["img_w"]), int(expected["img_h"]))
    one, other = found.features.astype(np.float64), expected["features"].astype(np.float64)
    assert ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min() >= 0.99999
    np.testing.assert_allclose(found.obj_conf, expected["obj_conf"], rtol=0, atol=1e-4)
    best = np.take_along_axis(found.cls_prob, expected["cls_prob_top5_idx"].astype(np.int64), axis=1)
    np.testing.assert_allclose(best, expected["cls_prob_top5"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.cls_prob.sum(axis=1), expected["cls_prob_rowsum"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_given_boxes_have_the_reference_s_numbers_in_their_order(given: Detector, folder: str, name: str):
    one, expected = prepared(given, name, folder)
    np.testing.assert_array_equal(network_boxes(one), expected["dbg_network_boxes"])
    (found,) = given.detect([one])
    assert_parity(found, expected)


def test_a_gpu_s_way_gives_them_too_for_images_of_several_sizes_together(resnext101_checkpoint: Path):
    detector = load(Checkpoint(resnext101_checkpoint), Options(GivenRule(), torch.device("cpu")), batched=True)
    images = [prepared(detector, name) for name in ("china", "wide_1600x200")]
    nothing = replace(images[0][0], boxes=np.empty((0, 4), np.float32))
    first, none, second = detector.detect([images[0][0], nothing, images[1][0]])
    assert_parity(first, images[0][1])
    assert_parity(second, images[1][1])
    assert none.cls_prob.shape == (0, 1600)


def test_class_probabilities_are_left_out_where_they_are_not_wanted(resnext101_checkpoint: Path):
    options = Options(GivenRule(), torch.device("cpu"), cls_prob=ClsProb.NONE)
    detector = load(Checkpoint(resnext101_checkpoint), options)
    one, expected = prepared(detector, "wide_1600x200")
    found, none = detector.detect([one, replace(one, boxes=np.empty((0, 4), np.float32))])
    assert found.cls_prob is None
    np.testing.assert_array_equal(found.obj_id, expected["obj_id"])
    assert none.features.shape == (0, 2048)


@pytest.mark.parametrize("name", ["china", "wide_1600x200"])
def test_a_file_s_own_boxes_given_back_give_its_features(given: Detector, name: str):
    """They are the proposals that the features were pooled over."""
    (image,) = (GOLDEN / "images").glob(f"{name}.*")
    published = np.load(GOLDEN / "resnext101" / f"{name}.npz")
    (found,) = given.detect([replace(given.prepare(decode(image.read_bytes())), boxes=published["bbox"])])
    one, other = found.features.astype(np.float64), published["features"].astype(np.float64)
    assert ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min() >= 0.99999
    np.testing.assert_array_equal(found.obj_id, published["objects"])
