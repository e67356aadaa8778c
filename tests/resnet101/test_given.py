"""Boxes that the user gives, against the reference's own notebook for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torchvision.ops import roi_pool

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import GivenRule
from extractor.core.contract import Regions
from extractor.pipeline.decode.pool import decode
from resnet101_detectron2 import load
from resnet101_detectron2.cpu.pooling import pool
from resnet101_detectron2.detector import Detector
from resnet101_detectron2.heads import network_boxes

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in (GOLDEN / "resnet101_given").iterdir())


@pytest.fixture(scope="module")
def given(resnet101_checkpoint: Path) -> Detector:
    """The detector under the rule of given boxes."""
    return load(Checkpoint(resnet101_checkpoint), Options(GivenRule(), torch.device("cpu")))


def prepared(detector: Detector, name: str) -> tuple[Prepared, NpzFile]:
    """A golden image with its boxes, and what the reference makes of it."""
    (image,) = (GOLDEN / "images").glob(f"{name}.*")
    expected = np.load(GOLDEN / "resnet101_given" / f"{name}.npz")
    return replace(detector.prepare(decode(image.read_bytes())), boxes=expected["given_boxes"]), expected


def assert_parity(found: Regions, expected: NpzFile) -> None:
    for field in ("boxes", "obj_id", "attr_id", "img_w", "img_h"):
        np.testing.assert_array_equal(getattr(found, field), expected[field], err_msg=field)
    assert found.num_boxes == len(expected["given_boxes"])
    np.testing.assert_allclose(found.obj_conf, expected["obj_conf"], rtol=1e-3)
    np.testing.assert_allclose(found.attr_conf, expected["attr_conf"], rtol=1e-3)
    largest = np.abs(expected["features"]).max(axis=1, keepdims=True)
    np.testing.assert_array_less(np.abs(found.features - expected["features"]) / largest, 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_given_boxes_have_the_reference_s_numbers_in_their_order(given: Detector, name: str):
    one, expected = prepared(given, name)
    np.testing.assert_array_equal(network_boxes(one), expected["dbg_network_boxes"])
    (found,) = given.detect([one])
    assert_parity(found, expected)


def test_a_gpu_s_way_gives_them_too_for_images_of_several_sizes_together(resnet101_checkpoint: Path):
    detector = load(Checkpoint(resnet101_checkpoint), Options(GivenRule(), torch.device("cpu")), batched=True)
    images = [prepared(detector, name) for name in ("china", "wide_1600x200")]
    nothing = replace(images[0][0], boxes=np.empty((0, 4), np.float32))
    first, none, second = detector.detect([images[0][0], nothing, images[1][0]])
    assert_parity(first, images[0][1])
    assert_parity(second, images[1][1])
    assert (len(none.features), none.features.shape[1]) == (0, 2048)


def test_equal_boxes_have_equal_rows_whatever_stands_beside_them(given: Detector):
    one, expected = prepared(given, "wide_1600x200")
    (found,) = given.detect([replace(one, boxes=np.repeat(expected["given_boxes"][1:2], 301, axis=0))])
    assert (found.features == found.features[0]).all()
    (none,) = given.detect([replace(one, boxes=np.empty((0, 4), np.float32))])
    assert none.features.shape == (0, 2048)


def test_the_corners_of_a_box_that_reaches_beyond_the_image_are_rounded_as_the_operator_rounds():
    features = torch.rand(10, 12, 4)
    halves = torch.tensor([-24.0, -8.0, 8.0, 24.0, 40.0, 104.0, 168.0])
    corners = torch.cartesian_prod(halves, halves, halves, halves)
    rois = corners[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]
    pooled = pool(features, rois)
    expected = roi_pool(features.permute(2, 0, 1)[None], torch.cat([torch.zeros(len(rois), 1), rois], 1), 14, 1 / 16)
    torch.testing.assert_close(pooled.cells[pooled.bins].permute(2, 3, 0, 1), expected, rtol=0, atol=0)


def test_a_file_s_own_boxes_given_back_do_not_give_its_features(given: Detector):
    """A published box is the regressed one, and its features are the proposal's."""
    (image,) = (GOLDEN / "images").glob("wide_1600x200.*")
    published = np.load(GOLDEN / "resnet101" / "wide_1600x200.npz")
    (found,) = given.detect([replace(given.prepare(decode(image.read_bytes())), boxes=published["boxes"])])
    one, other = found.features.astype(np.float64), published["features"].astype(np.float64)
    assert ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min() < 0.999
