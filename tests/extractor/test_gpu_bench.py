"""What is measured on a GPU: every part runs, and tells of an operation that is wrong or slow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from extractor.backbone import Backbone, Pending, Prepared
from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions
from extractor.gpu import startup
from extractor.gpu.agreement import BATCH_BOUNDS, agreement
from extractor.gpu.known_answer import KnownAnswers
from extractor.tools import gpu_bench

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
ROWS = 36


class Detector(Backbone):
    """A convolution whose channels give boxes, confidences and features: what is wrong with it shows in all three."""

    synthetic = True

    def __init__(self, *_) -> None:
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, ROWS * 8, 5, stride=4).requires_grad_(False)

    def prepare(self, pixels: np.ndarray) -> Prepared:
        tensor = torch.from_numpy(pixels[:64, :64].copy()).permute(2, 0, 1).float() / 255
        return Prepared(tensor, pixels.shape[1], pixels.shape[0], 1.0, pixels.shape[:2])

    @torch.inference_mode()
    def start(self, batch: list[Prepared]) -> Pending:
        maps = self.conv(torch.stack([one.tensor for one in batch]))
        means = maps.mean(dim=(2, 3)).view(-1, ROWS, 8).numpy()
        found = [self._regions(one, own) for one, own in zip(batch, means, strict=True)]
        return lambda: found

    def _regions(self, image: Prepared, found: np.ndarray) -> Regions:
        corners = np.arange(ROWS, dtype=np.float32)[:, None] * 10 + 100 * np.abs(found[:, :2])
        order = np.argsort(-found[:, 3], kind="stable")
        return Regions(
            np.tile(found, (1, 256))[order],
            np.hstack([corners, corners + 20])[order],
            np.zeros(ROWS, int),
            found[order, 3],
            ROWS,
            image.width,
            image.height,
            np.zeros(ROWS, int),
            found[order, 4],
        )


class Fault(TorchFunctionMode):
    """A library whose fp32 convolution of this many images is wrong, or takes its time."""

    def __init__(self, images: int, *, slow: float = 0.0) -> None:
        super().__init__()
        self.images = images
        self.slow = slow

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.conv2d and args[0].dtype is torch.float32 and len(result) == self.images:
            for _ in range(int(self.slow * 100)):
                func(*args, **(kwargs or {}))
            return result if self.slow else result + torch.rand(result.shape)
        return result


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """The figures of a bench on the CPU, and what it prints, with a fault below it."""
    monkeypatch.setattr(gpu_bench, "ALONE_SECONDS", 0.05)
    monkeypatch.setattr(startup, "TYPICAL", (64, 64))
    monkeypatch.setattr(startup, "LARGEST", (96, 64))
    (tmp_path / "checkpoint.pkl").write_bytes(b"stub")

    def measure(fault: TorchFunctionMode | None = None, **options) -> tuple[dict, str]:
        bench = gpu_bench.Bench(
            CPU, gpu_bench.photographs(GOLDEN / "images", 16), GOLDEN, options.pop("batch_sizes", (2, 8)), **options
        )
        candidate = gpu_bench.Candidate("resnet101", tmp_path / "checkpoint.pkl", Detector, Detector)
        with fault or Fault(0):
            gpu_bench.bench([lambda: candidate], bench, [Precision.FP32, Precision.BF16], tmp_path / "figures.json")
        return json.loads((tmp_path / "figures.json").read_text()), capsys.readouterr().out

    return measure


def test_every_part_runs_and_its_figures_are_there(measured) -> None:
    figures, said = measured()

    of = figures["resnet101"]["fp32"]
    assert [row["way"] for row in of["known_answers"]] == ["whole"] * len(of["known_answers"])
    assert of["known_answers"][0]["operation"].startswith("conv2d 3->288 5x5 stride 4 on 64x64, batch 1")
    assert of["golden"]["kept"] == 0.0  # it is no detector
    assert of["batch_mates"]["8"] == {
        "kept": 1.0, "in_place": 1.0, "box": pytest.approx(0, abs=1e-4), "confidence": pytest.approx(0, abs=1e-6),
        "cosine": pytest.approx(1), "median_cosine": pytest.approx(1), "within_bounds": True,
    }  # fmt: skip
    assert set(of["network"]) == {"1", "2", "8"}
    assert of["profile"]["operations"] > 1
    assert of["whole"]["images"] == 16
    assert of["whole"]["stages"]["decode"] > 0
    assert of["whole"]["cpu_seconds_per_image"] > 0
    assert figures["resnet101"]["plain_tf32"]["loop_images_per_second"] > 0
    assert figures["skipped"] == []
    assert "FAILED" not in said
    ratio = of["whole"]["images_per_second"] / figures["resnet101"]["plain_fp32"]["loop_images_per_second"]
    assert f"ours in fp32: {ratio:.2f} times" in said


def test_an_operation_that_is_wrong_in_a_batch_is_told_and_mended(measured) -> None:
    figures, said = measured(Fault(8))

    of = figures["resnet101"]["fp32"]
    (wrong,) = [row for row in of["known_answers"] if row["before"]]
    assert wrong["operation"] == "conv2d 3->288 5x5 stride 4 on 64x64, batch 8, float32"
    assert wrong["way"] == "in 2 pieces"
    assert "whole: off by" in wrong["before"][0]
    assert f"{wrong['operation']}: in 2 pieces, as whole: off by" in said
    assert of["batch_mates"]["8"]["within_bounds"] is True
    assert "BEYOND" not in said


def test_without_the_check_the_batch_s_rows_are_told_to_be_wrong(measured, monkeypatch) -> None:
    monkeypatch.setattr(KnownAnswers, "_concerns", lambda self, operation: False)

    figures, said = measured(Fault(8))

    assert figures["resnet101"]["fp32"]["batch_mates"]["2"]["within_bounds"] is True
    assert figures["resnet101"]["fp32"]["batch_mates"]["8"]["within_bounds"] is False
    assert "batch of  8 against alone" in said
    assert "BEYOND THE BOUNDS" in said


def test_an_operation_that_no_way_of_computing_saves_does_not_end_the_other_parts(measured) -> None:
    figures, said = measured(Fault(1))  # one image has no smaller pieces

    of = figures["resnet101"]["fp32"]
    assert "is not computed rightly here" in of["start-up_failed"]
    assert "start-up: FAILED: conv2d 3->288" in said
    assert "is not computed rightly here" in of["network alone_failed"]
    assert figures["resnet101"]["bf16"]["whole"]["images"] == 16


def test_an_operation_that_is_slow_in_a_batch_shows_in_the_rates(measured) -> None:
    figures, _ = measured(Fault(8, slow=2.0))

    network = figures["resnet101"]["fp32"]["network"]
    assert network["8"]["images_per_second"] < network["2"]["images_per_second"] / 4


def test_parts_for_which_there_is_no_time_are_named(measured) -> None:
    figures, said = measured(seconds=-1.0)

    assert figures["skipped"] == ["precision", "precision", "plain"]
    assert "left out: precision, precision, plain" in said


def test_results_in_another_order_are_the_same_boxes() -> None:
    detector = Detector()
    (one,) = detector.detect([detector.prepare(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))])
    swapped = [1, 0, *range(2, ROWS)]
    other = Regions(
        one.features[swapped], one.boxes[swapped], one.obj_id, one.obj_conf[swapped], ROWS, one.img_w, one.img_h
    )

    found = agreement(one, other)

    assert (found.kept, found.in_place) == (1.0, (ROWS - 2) / ROWS)
    assert found.within(BATCH_BOUNDS[Precision.FP32])
    shifted = Regions(one.features, one.boxes + 30, one.obj_id, one.obj_conf, ROWS, one.img_w, one.img_h)
    assert not agreement(one, shifted).within(BATCH_BOUNDS[Precision.BF16])


def test_the_bounds_that_the_readme_states_are_those_that_are_held() -> None:
    readme = (Path(__file__).parents[2] / "images" / "extractor" / "README.md").read_text()
    table = readme.partition("<!-- batch-bounds -->")[2].partition("<!-- /batch-bounds -->")[0]
    stated = {}
    for line in table.strip().splitlines()[2:]:
        precision, kept, in_place, *others = (cell.strip(" `%") for cell in line.strip("|").split("|"))
        stated[precision] = (float(kept) / 100, float(in_place) / 100, *map(float, others))

    assert stated == {
        precision.value: (bound.kept, bound.in_place, bound.box, bound.confidence, bound.median_cosine)
        for precision, bound in BATCH_BOUNDS.items()
    }
