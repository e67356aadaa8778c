"""What holds for any image: independence of batch mates, the box rule, agreement of every way to compute.

Small inputs keep these short; the network takes any multiple of 32.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import ClsProb, Precision, box_rule
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from resnext101_mmf import load, plain
from resnext101_mmf.config import BoxHead
from resnext101_mmf.cpu.gathered import gathered
from resnext101_mmf.cpu.one_by_one import candidates
from resnext101_mmf.detector import Detector
from resnext101_mmf.network import aligned
from resnext101_mmf.rows import in_pixels, pack, packed, unpack
from resnext101_mmf.selection import Chosen


def image(seed: int, height: int = 64, width: int = 96) -> Prepared:
    """Blots of colour, prepared."""
    blots = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 255 - 115
    tensor = torch.nn.functional.interpolate(blots[None], (height, width), mode="bicubic")[0]
    return Prepared(tensor, width * 2, height * 2, 0.5, (height, width))


def assert_equal(one: Regions, other: Regions) -> None:
    assert one.num_boxes == other.num_boxes
    for field in one.fields:
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@pytest.fixture(scope="module")
def alone(detector: Detector) -> list[Regions]:
    """Three images, each in a batch of its own."""
    return [detector.detect([image(seed)])[0] for seed in range(3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1, 1)])
def test_batch_mates_and_order_change_no_bit(detector: Detector, alone: list[Regions], order: tuple[int, ...]):
    for found, seed in zip(detector.detect([image(seed) for seed in order]), order, strict=True):
        assert_equal(found, alone[seed])


def assert_close(one: Regions, other: Regions, *, tolerance: float) -> None:
    """Rows by their boxes, since nearly equal scores may change places."""
    place = [int(np.abs(other.boxes - box).max(axis=1).argmin()) for box in one.boxes]
    assert len(set(place)) >= 0.95 * len(place)
    np.testing.assert_allclose(one.boxes, other.boxes[place], rtol=0, atol=0.05)
    largest = np.abs(one.features).max()
    np.testing.assert_allclose(one.features, other.features[place], rtol=0, atol=tolerance * largest)
    np.testing.assert_allclose(one.cls_prob, other.cls_prob[place], rtol=0, atol=10 * tolerance)


def test_the_plain_run_gives_the_same(resnext101_checkpoint: Path, options: Options, alone: list[Regions]):
    (found,) = plain.load(Checkpoint(resnext101_checkpoint), options).detect([image(0)])
    assert_close(found, alone[0], tolerance=1e-5)


def test_the_body_keeps_every_rounding_of_the_plain_run(
    resnext101_checkpoint: Path, options: Options, detector: Detector
):
    body = plain.load(Checkpoint(resnext101_checkpoint), options).network.body
    images = image(0).tensor[None]
    with torch.inference_mode():
        for one, other in zip(stages(body, images), stages(detector.network.body, images), strict=True):
            assert torch.equal(one, other)


def stages(body: Any, images: torch.Tensor) -> Iterator[torch.Tensor]:
    x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
    for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = layer(x)
        yield x.clone()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 40), largest=st.sampled_from([0.5, 8.0, 90.0, 400.0]))
def test_gathered_rois_are_aligned_ones(seed: int, side: int, largest: float):
    """Also RoIs that are smaller than a pixel, that leave the map, or that lie wholly outside."""
    random = torch.Generator().manual_seed(seed)
    head = BoxHead()
    pyramid = [
        torch.randn(2, 8, -(-side // 2**level), side, generator=random).contiguous(memory_format=torch.channels_last)
        for level in range(4)
    ]
    corners = (torch.rand(30, 2, generator=random) - 0.2) * side * 4
    far = corners + torch.rand(30, 2, generator=random) * largest
    images = torch.randint(2, (30, 1), generator=random)
    rois, levels = torch.cat([images, corners, far], dim=1), torch.randint(4, (30,), generator=random)
    expected = aligned(head, pyramid, levels, rois).flatten(2).transpose(1, 2)
    torch.testing.assert_close(gathered(head, pyramid, levels, rois), expected, rtol=1e-4, atol=1e-5)


def test_the_plain_run_is_in_fp32_only(resnext101_checkpoint: Path, options: Options):
    with pytest.raises(UsageError, match="fp32 only, not bf16"):
        plain.load(Checkpoint(resnext101_checkpoint), replace(options, precision=Precision.BF16))


@pytest.fixture
def tf32_flags() -> Iterator[None]:
    yield
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.mark.usefixtures("tf32_flags")
def test_freed_sums_change_numbers_by_rounding_only(
    resnext101_checkpoint: Path, options: Options, alone: list[Regions]
):
    tf32 = load(Checkpoint(resnext101_checkpoint), replace(options, precision=Precision.TF32))
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert_close(tf32.detect([image(0)])[0], alone[0], tolerance=1e-4)


def test_fp32_forbids_tf32(resnext101_checkpoint: Path, options: Options):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    load(Checkpoint(resnext101_checkpoint), options)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_class_probabilities_are_optional(resnext101_checkpoint: Path, options: Options, alone: list[Regions]):
    without = load(Checkpoint(resnext101_checkpoint), replace(options, cls_prob=ClsProb.NONE))
    (found,) = without.detect([image(0)])
    assert found.cls_prob is None
    assert_equal(found, replace(alone[0], cls_prob=None))


SCORES = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.15, 0.05], [0.4, 0.3, 0.3], [0.2, 0.2, 0.6]])
"""Background, then two classes."""
CONFIDENCE = np.array([0.9, 0.6, 0.3, 0.15], np.float32)
ROWS = np.array([0, 3, 2, 1])


def chosen(**rule: float) -> Regions:
    options = Options(box_rule("resnext101", **rule), torch.device("cpu"))
    limit = options.rule.max_boxes
    scores = torch.cat([SCORES, torch.zeros(4, 1598)], dim=1)
    boxes = torch.arange(16, dtype=torch.float32).reshape(4, 4)
    rows, confidence = torch.from_numpy(ROWS[:limit])[None], torch.from_numpy(CONFIDENCE[:limit])[None]
    found = candidates(boxes, torch.zeros(4, 2048), scores)
    table = packed(found, found.boxes, Chosen(rows, confidence, torch.ones(1, dtype=torch.bool)), options)
    return unpack(table[0].numpy(), image(0), options)


@pytest.mark.parametrize(
    ("rule", "rows", "count"),
    [
        ({}, 4, 4),
        ({"confidence_threshold": 0.5}, 4, 2),
        ({"confidence_threshold": 0.5, "min_boxes": 1}, 2, 2),
        ({"confidence_threshold": 0.6, "min_boxes": 1}, 1, 1),
        ({"confidence_threshold": 0.95, "min_boxes": 3}, 3, 0),
        ({"confidence_threshold": 0.1, "min_boxes": 1, "max_boxes": 2}, 2, 2),
        ({"max_boxes": 3}, 3, 3),
    ],
)
def test_rows_lie_between_minimum_and_maximum_and_num_boxes_counts_those_above(
    rule: dict[str, float], rows: int, count: int
):
    found = chosen(**rule)
    assert (len(found.boxes), found.num_boxes) == (rows, count)
    np.testing.assert_array_equal(found.boxes[:, 0], 4 * ROWS[:rows])


def test_without_background_classes_count_from_the_first_foreground_class():
    found = chosen()
    np.testing.assert_array_equal(found.obj_id, [0, 1, 0, 0])
    np.testing.assert_allclose(found.obj_conf, [0.9, 0.6, 0.3, 0.15])
    np.testing.assert_array_equal(found.cls_prob[:, :2], SCORES[ROWS, 1:])


def test_with_background_it_is_class_0_and_the_others_count_from_1():
    found = chosen(background=True)
    np.testing.assert_array_equal(found.obj_id, [1, 2, 0, 0])
    np.testing.assert_allclose(found.obj_conf, [0.9, 0.6, 0.4, 0.8])
    np.testing.assert_array_equal(found.cls_prob[:, :2], SCORES[ROWS, 1:])


@pytest.mark.parametrize("rounds", [None, 16])
@pytest.mark.parametrize(("background", "first"), [(False, 1), (True, 0)])
def test_background_takes_part_in_the_selection_where_asked(background: bool, first: int, rounds: int | None):
    options = Options(box_rule("resnext101", max_boxes=1, background=background), torch.device("cpu"))
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 59.0, 59.0]])
    scores = torch.zeros(2, 1601)
    scores[:, :2] = torch.tensor([[0.9, 0.1], [0.4, 0.6]])

    found = pack(candidates(boxes, torch.zeros(2, 2048), scores), [image(0)], options, rounds)

    regions = unpack(found[0].numpy(), image(0), options)
    np.testing.assert_array_equal(regions.boxes, 2 * boxes[first : first + 1].numpy())


def test_boxes_are_divided_by_the_scale_as_a_number_divides_them():
    """The tensor that divides on a GPU gives a CPU's quotients."""
    boxes, scale = torch.rand(1, 5000, 4) * 1333, 1333 / 1601
    one = replace(image(0), scale=scale)
    assert torch.equal(in_pixels(boxes, [one]), boxes / scale)
