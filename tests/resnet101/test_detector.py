"""What holds for any image: independence of batch mates, agreement with the plain run, few boxes or none.

Small inputs keep these short; the network takes any size.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import Precision, box_rule
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from extractor.core.manifest import Entry, RejectReason
from extractor.pipeline.finite import Finite
from extractor.pipeline.loader import LoadedImage
from resnet101_detectron2 import heads, load, plain
from resnet101_detectron2.cpu.one_by_one import candidates
from resnet101_detectron2.cpu.region_features import RegionFeatures
from resnet101_detectron2.cpu.threads import Threads
from resnet101_detectron2.detector import Detector
from resnet101_detectron2.heads import decode, pack, unpack


def image(seed: int, height: int = 48, width: int = 80) -> Prepared:
    """Blots of colour, prepared."""
    blots = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 255
    values = torch.nn.functional.interpolate(blots[None], (height, width), mode="bicubic")[0]
    tensor = values.clamp(0, 255).byte().permute(1, 2, 0).contiguous()
    return Prepared(tensor, width * 2, height * 2, 0.5, (height, width))


def assert_equal(one: Regions, other: Regions) -> None:
    assert one.num_boxes == other.num_boxes
    for field in one.fields:
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def assert_close(one: Regions, other: Regions) -> None:
    assert one.num_boxes == other.num_boxes
    np.testing.assert_array_equal(one.obj_id, other.obj_id)
    np.testing.assert_array_equal(one.attr_id, other.attr_id)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=0, atol=0.05)
    np.testing.assert_allclose(one.features, other.features, rtol=0, atol=1e-4 * np.abs(one.features).max())


@pytest.fixture(scope="module")
def alone(detector: Detector) -> list[Regions]:
    """Three images, each in a batch of its own."""
    return [detector.detect([image(seed)])[0] for seed in range(3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1, 1)])
def test_batch_mates_and_order_change_no_bit(detector: Detector, alone: list[Regions], order: tuple[int, ...]):
    for found, seed in zip(detector.detect([image(seed) for seed in order]), order, strict=True):
        assert_equal(found, alone[seed])


def test_images_differ(alone: list[Regions]):
    assert not np.array_equal(alone[0].features, alone[1].features)


def test_the_plain_run_gives_the_same(resnet101_checkpoint: Path, options: Options, alone: list[Regions]):
    (found,) = plain.load(Checkpoint(resnet101_checkpoint), options).detect([image(0)])
    assert_close(found, alone[0])


def test_the_plain_run_is_in_fp32_only(resnet101_checkpoint: Path, options: Options):
    with pytest.raises(UsageError, match="fp32 only, not bf16"):
        plain.load(Checkpoint(resnet101_checkpoint), Options(options.rule, options.device, Precision.BF16))


def test_without_winograd_the_numbers_are_the_same(resnet101_checkpoint: Path, options: Options, alone: list[Regions]):
    """A CPU has no TF32: what is left of that precision there is the path that GPUs take below fp32."""
    tf32 = load(Checkpoint(resnet101_checkpoint), Options(options.rule, options.device, Precision.TF32))
    try:
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert_close(tf32.detect([image(0)])[0], alone[0])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def test_fp32_forbids_tf32(resnet101_checkpoint: Path, options: Options):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    load(Checkpoint(resnet101_checkpoint), options)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_the_number_of_threads_changes_no_bit_of_a_feature(detector: Detector):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(10, 12, 1024, generator=generator)
    low = torch.rand(20, 2, generator=generator) * 80
    rois = torch.cat((low, low + torch.rand(20, 2, generator=generator) * 100), dim=1)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(RegionFeatures(detector.network.roi_heads.res5, Threads()))
    torch.set_num_threads(before)
    with torch.inference_mode():
        assert torch.equal(found[0](features, rois), found[1](features, rois))


def test_an_image_that_cannot_reach_the_minimum_keeps_what_it_has(detector: Detector):
    (found,) = detector.detect([image(0, 16, 16)])
    assert 0 < found.num_boxes < 36
    assert len(found.features) == len(found.boxes) == len(found.attr_id) == found.num_boxes
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert (sides > 0).all()
    assert (found.boxes[:, 2:] <= 32).all()


def rows(detector: Detector, proposals: torch.Tensor, features: torch.Tensor) -> Regions:
    """What the heads make of one image's proposals."""
    predictor = detector.network.roi_heads.box_predictor
    with torch.inference_mode():
        packed = pack(predictor, candidates(proposals, features), [image(0)], detector.compute.rule)
    return unpack(packed[0].numpy(), image(0))


def test_boxes_without_area_are_left_out(detector: Detector, monkeypatch):
    proposals = torch.tensor([[200.0, 200, 240, 240], [0, 0, 40, 40], [20, 5, 70, 45]])  # the first lies outside
    monkeypatch.setattr(heads, "decode", lambda deltas, boxes, weights: boxes)
    found = rows(detector, proposals, torch.rand(3, 2048))
    assert found.num_boxes == len(found.features) == 2
    assert sorted(found.boxes.tolist()) == [[0, 0, 80, 80], [40, 10, 140, 90]]


def test_an_image_without_proposals_has_no_rows(detector: Detector):
    with torch.inference_mode():
        features = detector.compute.region_features(torch.rand(3, 3, 1024), torch.zeros(0, 4))
    found = rows(detector, torch.zeros(0, 4), features)
    assert found.num_boxes == 0
    assert found.features.shape == (0, 2048)
    assert found.boxes.shape == (0, 4)


class Sick(TorchFunctionMode):
    """A device whose convolutions give NaN."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * torch.nan if func is torch.conv2d else result


def test_an_image_whose_numbers_are_nan_is_not_told_as_one_without_boxes(detector: Detector, options: Options):
    loaded = LoadedImage(0, Entry(key="a.jpg", etag="e", size=1, image_id="a"), prepared=image(1))
    with Sick():
        (found,) = detector.detect([loaded.prepared])
        refused, _ = Finite(lambda _: detector, options, detector).checked(loaded, found)
    assert len(found.features) == 0
    assert refused.refused[0] is RejectReason.NOT_FINITE


@pytest.mark.parametrize("name", ["proposal_generator", "roi_heads.box_predictor"])
def test_boxes_are_decoded_as_detectron2_does_it(detector: Detector, name: str):
    transform = detector.network.get_submodule(name).box2box_transform
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1000, 2, generator=generator) * 800
    boxes = torch.cat((low, low + torch.rand(1000, 2, generator=generator) * 400), dim=1)
    deltas = torch.randn(1000, 4, generator=generator) * 3
    assert torch.equal(decode(deltas, boxes, transform.weights), transform.apply_deltas(deltas, boxes))


def test_the_adaptive_rule_keeps_between_its_limits(detector: Detector, monkeypatch):
    monkeypatch.setattr(detector.compute, "rule", box_rule("resnet101", min_boxes=2, max_boxes=4))
    (found,) = detector.detect([image(0)])
    assert 2 <= found.num_boxes <= 4
    assert (np.diff(found.obj_conf) <= 0).all()
    assert (found.obj_conf[2:] > 0.2).all()
