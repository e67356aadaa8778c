"""How a GPU computes, on a CPU: several sizes in one batch, suppression in rounds; and on a fake GPU, that nothing
waits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from fake_gpu import CUDA, fake_gpu, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torchvision.ops import batched_nms

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions
from extractor.gpu.agreement import BATCH_BOUNDS, agreement
from extractor.gpu.card import card_of
from extractor.gpu.frames import frame
from extractor.gpu.known_answer import KnownAnswers
from extractor.gpu.suppression import ROUNDS
from extractor.gpu.timeline import Timeline
from resnet101_detectron2 import batched, image, load
from resnet101_detectron2.batched import Batched
from resnet101_detectron2.detector import Detector
from resnet101_detectron2.folding import fold
from resnet101_detectron2.network import build
from resnet101_detectron2.proposals import survivors


def blots(seed: int, height: int, width: int) -> Prepared:
    """Blots of colour, prepared."""
    coarse = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 255
    values = torch.nn.functional.interpolate(coarse[None], (height, width), mode="bicubic")[0]
    tensor = values.clamp(0, 255).byte().permute(1, 2, 0).contiguous()
    return Prepared(tensor, width * 2, height * 2, 0.5, (height, width))


MIXED = [blots(0, 48, 80), blots(1, 61, 37), blots(2, 16, 16)]
FEW = 40
"""Proposals of an image in these tests: its RoIs are nearly all of its work."""


@pytest.fixture(scope="module")
def together(resnet101_checkpoint: Path, options: Options) -> Detector:
    """The detector as a GPU computes it, on the CPU."""
    made = load(Checkpoint(resnet101_checkpoint), options, batched=True)
    made.compute.proposer.after = FEW
    return made


def assert_close(one: Regions, other: Regions) -> None:
    assert one.num_boxes == other.num_boxes
    np.testing.assert_array_equal(one.obj_id, other.obj_id)
    np.testing.assert_array_equal(one.attr_id, other.attr_id)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=0, atol=0.05)
    np.testing.assert_allclose(one.features, other.features, rtol=0, atol=1e-4 * np.abs(one.features).max())


def test_images_of_several_sizes_in_a_batch_are_as_alone(together: Detector, detector: Detector, monkeypatch):
    """Each has the rows that it has alone on a CPU, though the frame is larger than any of them."""
    monkeypatch.setitem(detector.network.proposal_generator.post_nms_topk, False, FEW)
    assert frame([one.shape for one in MIXED]) == (320, 320)
    for found, one in zip(together.detect(MIXED), MIXED, strict=True):
        assert_close(found, detector.detect([one])[0])


def test_what_lies_beyond_an_image_does_not_reach_its_maps(together: Detector):
    """The 3x3 convolutions of a batch see zeros there: maps and proposals are those of the image alone."""
    with torch.inference_mode():
        sizes = [one.shape for one in MIXED]
        pixels = image.network_input(MIXED, frame(sizes), together.options.device)
        maps, extents = together.compute.features(pixels, sizes)
        for own, one, (height, width) in zip(maps, MIXED, extents.sizes, strict=True):
            pixels = image.network_input([one], one.shape, together.options.device)
            alone = together.network.backbone(pixels.contiguous())
            assert alone["res4"].shape[2:] == (height, width)
            torch.testing.assert_close(own[:, :height, :width], alone["res4"][0], rtol=1e-4, atol=1e-4)
            assert not own[:, height:].any()
            assert not own[:, :, width:].any()


def test_proposals_are_detectron2_s(together: Detector):
    """On maps of several sizes, from the same RPN outputs, to the bit."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(400, 640), (333, 500), (640, 80)]
    cells = batched.Extents([(-(-height // 16), -(-width // 16)) for height, width in sizes], together.options.device)
    logits = torch.randn(3, 12, 40, 40, generator=generator)
    deltas = torch.randn(3, 48, 40, 40, generator=generator) * 0.3
    limits = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
    with torch.inference_mode():
        found = together.compute.proposer(logits, deltas, cells, limits, None)
        rpn = together.network.proposal_generator
        for place, (height, width) in enumerate(cells.sizes):
            own = (part[place : place + 1, :, :height, :width] for part in (logits, deltas))
            scores, moves = (part.unflatten(1, (12, -1)).permute(0, 3, 4, 1, 2) for part in own)
            anchors = rpn.anchor_generator([scores.new_zeros(1, 1, height, width)])
            (expected,) = rpn.predict_proposals(
                anchors, [scores.flatten(1)], [moves.reshape(1, -1, 4)], ImageList(logits, [sizes[place]]).image_sizes
            )
            boxes = found.boxes[place, found.valid[place]]
            assert torch.equal(boxes, expected.proposal_boxes.tensor[:FEW])


# Whole coordinates make IoUs of exactly 0.7, boxes without area and equal boxes likely.
corner = st.integers(0, 20)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=40), st.integers(1, 12))
def test_survivors_are_torchvision_s_in_blocks_of_any_size(corners: list[tuple[int, ...]], limit: int):
    boxes = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], dtype=torch.float32)
    valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    falling = torch.linspace(1, 0.5, len(boxes))
    expected = batched_nms(boxes[valid], falling[valid], torch.zeros(int(valid.sum()), dtype=torch.int64), 0.7)[:limit]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet101_detectron2.proposals.BLOCK", 7)
        found = survivors(boxes[None] * valid[:, None], valid[None], 0.7, limit, None)
    assert found.settled.all()
    assert torch.equal(found.boxes[0, found.valid[0]], boxes[valid][expected])


def test_a_batch_that_takes_more_rounds_is_computed_to_the_end(together: Detector, monkeypatch):
    (expected,) = together.detect(MIXED[:1])
    asked = []
    compute = together.compute

    def counted(batch, timeline, rounds):
        asked.append(rounds)
        return compute(batch, timeline, 1 if rounds is not None else None)

    monkeypatch.setattr(together, "compute", counted)
    (found,) = together.detect(MIXED[:1])
    assert asked == [ROUNDS, None]
    assert_close(found, expected)


def test_a_batch_on_a_gpu_waits_for_nothing(options: Options, monkeypatch):
    """A fake GPU has no numbers to be asked for. Eight images take hardly more launches than one."""
    monkeypatch.setattr(batched, "fuse", lambda *_: None)
    with fake_gpu(monkeypatch) as counter, torch.no_grad():
        network = build()
        fold(network)
        compute = Batched(moved(network), options.rule, torch.float32, torch.contiguous_format)
        launched = []
        for shapes in ([(800, 1067)], [(800, 1067), (800, 1199), (1199, 800)] + 5 * [(800, 1205)]):
            batch = [Prepared(torch.zeros(*shape, 3, dtype=torch.uint8), 640, 480, 1.0, shape) for shape in shapes]
            with counter() as launches:
                rows = compute(batch, Timeline(torch.device("cpu")), ROUNDS)
            assert rows.shape[0] == len(batch)
            assert rows.device == CUDA
            assert "cuda to cpu" not in launches.copies
            launched.append(launches.count)
    print(f"launches: {launched[0]} for one image, {launched[1] / 8:.0f} for each of eight")
    assert launched[1] < 1.5 * launched[0]


class WrongRpn(TorchFunctionMode):
    """A library like cuDNN 9.19 on an H200: for a batch, the RPN's convolution is wrong, and nothing else."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        wrong = func is torch.conv2d and args[1].shape == (512, 1024, 3, 3) and len(args[0]) > 1
        return result.flip(1) if wrong and result.dtype is torch.float32 else result


def test_a_library_that_is_wrong_in_a_batch_does_not_reach_the_rows(together: Detector, monkeypatch):
    """As it was found: boxes of a batch were others than those of its images, without an error."""
    monkeypatch.setattr("extractor.gpu.known_answer.SECONDS_FOR_TIMING", 0)
    monkeypatch.setattr("extractor.gpu.operations.SPOTS", 256)
    batch = MIXED[:2]
    sound = together.detect(batch)
    with WrongRpn():
        wrong = together.detect(batch)
        answers = KnownAnswers(card_of(together.options.device), Precision.FP32)
        with answers:
            mended = together.detect(batch)

    bound = BATCH_BOUNDS[Precision.FP32]
    for one, faulty, found in zip(sound, wrong, mended, strict=True):
        assert agreement(one, found).within(bound)
        assert not agreement(one, faulty).within(bound)
    (note,) = answers.notes()
    assert "conv2d 1024->512 3x3 on 20x20, batch 2, float32: in 2 pieces, as whole: off by" in note
    assert {answer.operation.split()[0] for answer in answers.answers} == {"conv2d", "linear"}
    assert max(answer.chosen.deviation for answer in answers.answers) < 1e-5
