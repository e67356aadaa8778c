"""How a GPU computes, on a CPU: bytes resized there, several sizes in one batch, suppression in rounds; and on a fake
GPU, that nothing waits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import CUDA, fake_gpu, moved

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.contract import Regions
from extractor.gpu.frames import frame
from extractor.gpu.suppression import ROUNDS
from extractor.gpu.timeline import Timeline
from extractor.pipeline.decode.pool import decode
from resnext101_mmf import arithmetic, batched, config, load, resize
from resnext101_mmf.batched import Batched
from resnext101_mmf.cpu.one_by_one import proposed
from resnext101_mmf.detector import Detector
from resnext101_mmf.network import Network
from resnext101_mmf.proposals import Proposer
from resnext101_mmf.selection import select, select_among_first

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
CPU = torch.device("cpu")


def blots(seed: int, height: int, width: int) -> Prepared:
    """Blots of colour, prepared."""
    coarse = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 255 - 115
    tensor = torch.nn.functional.interpolate(coarse[None], (height, width), mode="bicubic")[0]
    return Prepared(tensor, width * 2, height * 2, 0.5, (height, width))


MIXED = [blots(0, 64, 96), blots(1, 160, 64), blots(2, 64, 96)]


@pytest.fixture(scope="module")
def together(resnext101_checkpoint: Path, options: Options) -> Detector:
    """The detector as a GPU computes it, on the CPU."""
    return load(Checkpoint(resnext101_checkpoint), options, batched=True)


def assert_close(one: Regions, other: Regions) -> None:
    """Rows by their boxes, since nearly equal scores may change places."""
    assert one.num_boxes == other.num_boxes
    place = [int(np.abs(other.boxes - box).max(axis=1).argmin()) for box in one.boxes]
    assert len(set(place)) >= 0.95 * len(place)
    np.testing.assert_allclose(one.boxes, other.boxes[place], rtol=0, atol=0.05)
    np.testing.assert_allclose(one.features, other.features[place], rtol=0, atol=1e-4 * np.abs(one.features).max())
    np.testing.assert_allclose(one.cls_prob, other.cls_prob[place], rtol=0, atol=1e-3)


def test_images_of_several_sizes_in_a_batch_are_as_alone(together: Detector, detector: Detector):
    """Each has the rows that it has alone on a CPU, though the frame is larger than any of them."""
    assert frame([one.shape for one in MIXED]) == (320, 320)
    for found, one in zip(together.detect(MIXED), MIXED, strict=True):
        assert_close(found, detector.detect([one])[0])


def test_what_lies_beyond_an_image_does_not_reach_its_maps(together: Detector):
    """The wider convolutions of a batch see zeros there: every map is that of the image alone."""
    sizes = [one.shape for one in MIXED]
    with torch.inference_mode():
        maps, extents = together.compute.maps(resize.network_input(MIXED, frame(sizes), CPU), sizes)
        for place, one in enumerate(MIXED):
            alone = together.network.maps(one.tensor[None])
            for found, own in zip(maps, alone, strict=True):
                for level, extent in enumerate(extents):
                    height, width = extent.sizes[place]
                    assert own[level].shape[2:] == (height, width)
                    torch.testing.assert_close(
                        found[level][place, :, :height, :width], own[level][0], rtol=1e-4, atol=1e-3
                    )


def test_proposals_of_several_sizes_are_those_of_each_alone(together: Detector):
    """From the same RPN outputs, to the bit."""
    sizes = [one.shape for one in MIXED]
    limits = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
    with torch.inference_mode():
        maps, extents = together.compute.maps(resize.network_input(MIXED, frame(sizes), CPU), sizes)
        found = together.proposer(maps, extents, limits)
        for place, one in enumerate(MIXED):
            own = type(maps)(*(
                [level[place : place + 1, :, : extent.sizes[place][0], : extent.sizes[place][1]]
                 for level, extent in zip(part, extents, strict=True)]
                for part in maps
            ))  # fmt: skip
            assert torch.equal(found.of(place), proposed(together.proposer, own, one).of(0))


@pytest.mark.parametrize(
    ("width", "height"), [(640, 427), (480, 640), (500, 375), (40, 30), (1600, 200), (4000, 3000), (1, 1), (2666, 3)]
)
def test_pixels_resized_from_bytes_are_opencv_s(width: int, height: int):
    """As near as float32 tells grey levels of a hundred apart, and most to the bit; the padding is zero."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected, source = resize.prepare(pixels), resize.sample(pixels)
    assert source.tensor.dtype == torch.uint8
    assert (source.shape, source.scale) == (expected.shape, expected.scale)
    down, across = len(source.rows.near), len(source.columns.near)
    assert source.tensor.numel() <= 4 * 3 * down * across
    found = resize.network_input([source], source.shape, CPU)[0]
    np.testing.assert_allclose(found, expected.tensor, rtol=0, atol=6e-5)
    assert not found[:, down:].any()
    assert not found[:, :, across:].any()


def test_most_resized_values_are_opencv_s_to_the_bit():
    pixels = decode((GOLDEN / "china.jpg").read_bytes())
    source = resize.sample(pixels)
    found = resize.network_input([source], source.shape, CPU)[0]
    assert (found == resize.prepare(pixels).tensor).float().mean() > 0.999


def test_golden_images_are_selected_among_the_first_pairs():
    """Rows of the recorded probabilities: boxes that overlap, classes that compete."""
    expected = np.load(GOLDEN.parent / "resnext101" / "china_intermediate.npz")
    boxes = torch.from_numpy(np.load(GOLDEN.parent / "resnext101" / "china.npz")["bbox"])
    scores = torch.from_numpy(expected["cls_prob_full"])
    among = select_among_first(boxes[None], scores[None], 50, ROUNDS)
    assert among.final.all()
    rows, confidence = select(boxes, scores, 50)
    np.testing.assert_array_equal(among.rows[0], rows)
    np.testing.assert_array_equal(among.confidence[0], confidence)


def test_a_batch_that_takes_more_rounds_is_computed_to_the_end(together: Detector, monkeypatch):
    expected = together.detect(MIXED)
    asked = []
    compute = together.compute

    def counted(batch, timeline, rounds):
        asked.append(rounds)
        return compute(batch, timeline, 1 if rounds is not None else None)

    monkeypatch.setattr(together, "compute", counted)
    found = together.detect(MIXED)
    assert asked == [ROUNDS, None]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_a_batch_on_a_gpu_waits_for_nothing(options: Options, monkeypatch):
    """A fake GPU has no numbers to be asked for. Eight images take less than twice the launches of one."""
    monkeypatch.setattr(batched, "fuse", lambda *_: None)
    published = config.Model()
    fake = Options(options.rule, CUDA)
    with fake_gpu(monkeypatch) as counter, torch.no_grad():
        network = Network(published)
        arithmetic._fold_norms(network)
        proposer = Proposer(published.rpn, [None] * 5, CUDA)
        head = published.roi_box_head
        compute = Batched(moved(network), proposer, head, fake, torch.float32, torch.contiguous_format)
        launched = []
        for shapes in ([(480, 640)], [(480, 640), (427, 640), (640, 480)] + 5 * [(425, 640)]):
            batch = [resize.sample(np.zeros((*shape, 3), np.uint8)) for shape in shapes]
            with counter() as launches:
                rows = compute(batch, Timeline(CPU), ROUNDS)
            assert rows.shape[0] == len(batch)
            assert rows.device == CUDA
            assert "cuda to cpu" not in launches.copies
            launched.append(launches.count)
    print(f"launches: {launched[0]} for one image, {launched[1] / 8:.0f} for each of eight")
    assert launched[1] < 2 * launched[0]
