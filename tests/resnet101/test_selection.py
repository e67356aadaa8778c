"""The box rule against a plain implementation of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from extractor.core.backbone_specs import BoxRule, box_rule
from resnet101_detectron2.selection import NMS_THRESHOLDS, overlaps, select

EXACTLY_36 = box_rule("resnet101")
ADAPTIVE = box_rule("resnet101", min_boxes=10, max_boxes=100)


def plainly(boxes: np.ndarray, scores: np.ndarray, rule: BoxRule) -> tuple[list[int], float]:
    """One threshold after the other, by torchvision's NMS."""
    for threshold in np.arange(0.5, 1.0, 0.1):
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), float(threshold))[: rule.max_boxes].tolist()
        if len(kept) >= rule.min_boxes:
            break
    wanted = max(rule.min_boxes, sum(scores[row] > rule.confidence_threshold for row in kept))
    return kept[:wanted], float(threshold)


def selected(boxes: np.ndarray, scores: np.ndarray, rule: BoxRule) -> tuple[list[int], float]:
    """One image's rows and the threshold that gave them."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    found = select(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None], valid, rule)
    assert found.settled.all()
    return found.rows[0, : found.kept[0]].tolist(), NMS_THRESHOLDS[int(found.threshold[0])]


def assert_same(boxes: np.ndarray, scores: np.ndarray, rule: BoxRule) -> None:
    assert selected(boxes, scores, rule) == plainly(boxes, scores, rule)


def test_the_thresholds_are_the_reference_s_to_the_last_bit():
    assert NMS_THRESHOLDS == (0.5, 0.6, 0.7, 0.7999999999999999, 0.8999999999999999)


@pytest.mark.parametrize("rule", [EXACTLY_36, ADAPTIVE, box_rule("resnet101", min_boxes=1, max_boxes=300)])
@pytest.mark.parametrize("spread", [3.0, 30.0, 300.0, 3000.0])
def test_three_hundred_boxes_crowded_or_scattered(rule: BoxRule, spread: float):
    generator = np.random.default_rng(int(spread))
    for _ in range(100):
        centres = generator.normal(0, spread, (300, 2))
        sizes = generator.gamma(2.0, 60.0, (300, 2))
        boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1).clip(0, 1333).astype(np.float32)
        assert_same(boxes, generator.random(300).astype(np.float32) ** 3, rule)


# Small whole coordinates make IoUs that equal a threshold, boxes without area, and equal boxes and scores, likely.
corner = st.integers(0, 10)
some_boxes = st.lists(st.tuples(corner, corner, corner, corner), max_size=24)
rules = st.tuples(st.integers(1, 12), st.integers(0, 12), st.sampled_from([0.0, 0.2, 0.5])).map(
    lambda parts: BoxRule(min_boxes=parts[0], max_boxes=parts[0] + parts[1], confidence_threshold=parts[2])
)


@settings(max_examples=1000, deadline=None)
@given(some_boxes, rules, st.data())
def test_ties_and_boxes_without_area(corners: list[tuple[int, ...]], rule: BoxRule, data: st.DataObject):
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], np.float32).reshape(
        -1, 4
    )
    levels = st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes))
    assert_same(boxes, np.array(data.draw(levels), np.float32), rule)


def test_overlaps_are_torchvision_s_to_the_last_bit():
    generator = np.random.default_rng(0)
    low = generator.random((200, 2), np.float32) * 1000
    corners = np.concatenate((low, low + generator.random((200, 2), np.float32) * 400), axis=1)
    boxes = torch.from_numpy(corners)
    assert torch.equal(overlaps(boxes, boxes), box_iou(boxes, boxes))


def test_exactly_36_ignores_the_confidence():
    boxes = np.array([[100 * i, 0, 100 * i + 50, 50] for i in range(60)], np.float32)
    scores = np.linspace(0.001, 0.01, 60, dtype=np.float32)
    rows, _ = selected(boxes, scores, box_rule("resnet101", min_boxes=36, max_boxes=36, confidence_threshold=0.9))
    assert rows == list(range(59, 23, -1))


@pytest.mark.parametrize(
    ("confident", "kept"), [(0, 10), (4, 10), (10, 10), (11, 11), (99, 99), (100, 100), (150, 100)]
)
def test_the_adaptive_rule_keeps_the_confident_between_10_and_100(confident: int, kept: int):
    boxes = np.array([[100 * i, 0, 100 * i + 50, 50] for i in range(200)], np.float32)
    scores = np.where(np.arange(200) < confident, 0.8, 0.1).astype(np.float32)
    assert selected(boxes, scores, ADAPTIVE)[0] == list(range(kept))


def test_fewer_boxes_than_the_minimum_are_all_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    assert selected(boxes, np.array([0.3, 0.9, 0.5], np.float32), EXACTLY_36) == ([1, 2], 0.8999999999999999)


def test_no_box_at_all():
    assert selected(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), EXACTLY_36)[0] == []


def test_a_batch_s_images_are_selected_from_apart():
    generator = np.random.default_rng(0)
    low = generator.random((3, 40, 2), np.float32) * 100
    boxes = np.concatenate((low, low + generator.random((3, 40, 2), np.float32) * 100), axis=2)
    scores = generator.random((3, 40), np.float32)
    valid = torch.from_numpy(generator.random((3, 40)) < 0.8)
    found = select(torch.from_numpy(boxes), torch.from_numpy(scores), valid, ADAPTIVE)
    for image in range(3):
        rows = valid[image].nonzero()[:, 0].numpy()
        expected, threshold = plainly(boxes[image, rows], scores[image, rows], ADAPTIVE)
        assert found.rows[image, : found.kept[image]].tolist() == rows[expected].tolist()
        assert NMS_THRESHOLDS[int(found.threshold[image])] == threshold
