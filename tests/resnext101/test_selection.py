"""The selection's shortcut against the rule as mmf's script states it: a suppression for every class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext101_mmf import plain
from resnext101_mmf.nms import survivors
from resnext101_mmf.selection import select, select_among_first

LIMIT = 100


def oracle(boxes: np.ndarray, scores: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule, word for word, after the reference's CPU kernel."""
    suppresses = overlapping(boxes, np.float32(0.5))
    confidence = np.zeros(len(boxes), np.float32)
    for column in scores.T:
        for row in kept_rows(suppresses, column):
            confidence[row] = max(confidence[row], column[row])
    rows = sorted(range(len(boxes)), key=lambda row: (-confidence[row], row))[:limit]
    return np.array(rows, np.int64), confidence[rows]


def overlapping(boxes: np.ndarray, threshold: np.float32) -> list[list[bool]]:
    """Which boxes suppress which, in float32 throughout."""
    one = np.float32(1)
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + one) * (y2 - y1 + one)
    width = np.maximum(np.minimum.outer(x2, x2) - np.maximum.outer(x1, x1) + one, np.float32(0))
    height = np.maximum(np.minimum.outer(y2, y2) - np.maximum.outer(y1, y1) + one, np.float32(0))
    shared = width * height
    found: list[list[bool]] = (shared / (np.add.outer(areas, areas) - shared) >= threshold).tolist()
    return found


def kept_rows(suppresses: list[list[bool]], scores: np.ndarray) -> list[int]:
    order = scores.tolist()
    waiting = sorted(range(len(order)), key=lambda row: (-order[row], row))
    kept: list[int] = []
    while waiting:
        best, *rest = waiting
        kept.append(best)
        waiting = [row for row in rest if not suppresses[best][row]]
    return sorted(kept)


def assert_same(boxes: np.ndarray, scores: np.ndarray, limit: int, *, against_oracle: bool, case: object = "") -> None:
    given_boxes, given_scores = torch.from_numpy(boxes), torch.from_numpy(scores)
    rows, confidence = select(given_boxes, given_scores, limit)
    expected = oracle(boxes, scores, limit) if against_oracle else plain.select(given_boxes, given_scores, limit)
    np.testing.assert_array_equal(rows, expected[0], err_msg=f"rows of case {case}")
    np.testing.assert_array_equal(confidence, expected[1], err_msg=f"confidences of case {case}")
    among = select_among_first(given_boxes[None], given_scores[None], len(rows), None, pairs=64)
    if among.final[0]:
        np.testing.assert_array_equal(among.rows[0], rows, err_msg=f"rows of case {case} among the first pairs")
        np.testing.assert_array_equal(among.confidence[0], confidence, err_msg=f"case {case}, among the first pairs")


def boxes_on_a_grid(random: np.random.Generator, count: int, extent: int) -> np.ndarray:
    """Whole and half pixels, where IoUs of exactly one half are common and every implementation rounds alike."""
    corners = random.integers(0, 2 * extent, (count, 2)) / 2
    sides = random.integers(0, extent, (count, 2)) / 2
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def levels(random: np.random.Generator, count: int, classes: int) -> np.ndarray:
    """Few distinct scores, zero among them: ties everywhere."""
    return (random.integers(0, 4, (count, classes)) / 4).astype(np.float32)


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_small_cases_of_every_kind(data: st.DataObject):
    count = data.draw(st.integers(1, 9), label="boxes")
    classes = data.draw(st.integers(1, 4), label="classes")
    limit = data.draw(st.integers(1, 10), label="limit")
    side = st.integers(0, 6)
    corners = data.draw(st.lists(st.tuples(side, side, side, side), min_size=count, max_size=count), label="corners")
    score = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32)
    rows = st.lists(score, min_size=classes, max_size=classes)
    scores = data.draw(st.lists(rows, min_size=count, max_size=count), label="scores")
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32)
    assert_same(boxes, np.array(scores, np.float32), limit, against_oracle=True)


def test_random_cases_against_the_rule_word_for_word():
    for seed in range(1500):
        random = np.random.default_rng(seed)
        count, classes = int(random.integers(1, 40)), int(random.integers(1, 12))
        boxes = boxes_on_a_grid(random, count, int(random.integers(1, 30)))
        if seed % 3 == 0:
            boxes += random.random(boxes.shape, np.float32)  # off the grid: rounding as the kernel's own
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        scores = levels(random, count, classes) if seed % 2 else softmax(random.normal(0, 3, (count, classes)))
        assert_same(boxes, scores, int(random.integers(1, 30)), against_oracle=True, case=seed)


def test_larger_cases_against_the_loop_over_classes():
    for seed in range(300):
        random = np.random.default_rng(seed)
        count, classes = int(random.integers(50, 400)), int(random.integers(1, 60))
        boxes = boxes_on_a_grid(random, count, int(random.integers(5, 200)))
        spread = random.choice([0.0, 0.5, 3.0, 10.0])
        logits = random.normal(0, 1, (count, classes)) * spread
        scores = levels(random, count, classes) if seed % 3 == 0 else softmax(logits)
        assert_same(boxes, scores, LIMIT, against_oracle=False, case=seed)


@pytest.mark.parametrize("classes", [1, 1600])
@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_equal_scores_everywhere(count: int, classes: int):
    boxes = boxes_on_a_grid(np.random.default_rng(count), count, 40)
    scores = np.full((count, classes), 1 / 1601, np.float32)
    assert_same(boxes, scores, LIMIT, against_oracle=False)


def test_identical_boxes_leave_one_survivor_a_class():
    boxes = np.tile(np.array([10, 10, 50, 50], np.float32), (300, 1))
    scores = softmax(np.random.default_rng(0).normal(0, 3, (300, 7)))
    _, confidence = select(torch.from_numpy(boxes), torch.from_numpy(scores), LIMIT)
    assert np.count_nonzero(confidence) == len(set(scores.argmax(axis=0)))
    assert_same(boxes, scores, LIMIT, against_oracle=False)


def test_all_zero_scores_keep_the_first_rows_without_confidence():
    boxes = torch.from_numpy(boxes_on_a_grid(np.random.default_rng(1), 250, 40))
    rows, confidence = select(boxes, torch.zeros(250, 1600), LIMIT)
    np.testing.assert_array_equal(rows, np.arange(LIMIT))
    assert not confidence.any()


def test_fewer_proposals_than_wanted_are_all_kept():
    boxes = boxes_on_a_grid(np.random.default_rng(2), 37, 40)
    scores = softmax(np.random.default_rng(3).normal(0, 3, (37, 1600)))
    rows, _ = select(torch.from_numpy(boxes), torch.from_numpy(scores), LIMIT)
    assert sorted(rows) == list(range(37))
    assert_same(boxes, scores, LIMIT, against_oracle=False)


def test_an_iou_of_exactly_the_threshold_suppresses():
    # 10 x 10 and 10 x 5 pixels, both corners counted: they share 50 of 100.
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 4]], np.float32)
    _, confidence = select(torch.from_numpy(boxes), torch.tensor([[0.9], [0.8]]), LIMIT)
    np.testing.assert_array_equal(confidence, np.array([0.9, 0], np.float32))


def test_a_box_is_confident_by_the_best_class_that_it_survives_in():
    # The second box loses class 0 to the first, and keeps class 1.
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8]], np.float32)
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    rows, confidence = select(torch.from_numpy(boxes), scores, LIMIT)
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_array_equal(confidence, np.array([0.9, 0.2], np.float32))


def test_survivors_are_those_of_greedy_suppression():
    random = np.random.default_rng(0)
    falling = np.linspace(1, 0, 60, dtype=np.float32)
    for _ in range(200):
        boxes = np.stack([boxes_on_a_grid(random, 60, int(random.integers(2, 40))) for _ in range(2)])
        kept, settled = survivors(torch.from_numpy(boxes), 0.7)
        assert settled.all()
        for own, own_kept in zip(boxes, kept, strict=True):
            expected = kept_rows(overlapping(own, np.float32(0.7)), falling)
            assert torch.nonzero(own_kept).squeeze(1).tolist() == expected
