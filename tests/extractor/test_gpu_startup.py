"""Which batch a run on a GPU takes, that its operations are checked before and while it runs, and what it says where a
GPU cannot serve. A card is stood in for by its memory's figures, its library by torch on the CPU with a fault."""

import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from shards import contents, index, start
from torch import nn
from torch.overrides import TorchFunctionMode

from extractor.backbone import Backbone, Pending, Prepared
from extractor.core import contract, manifest
from extractor.core.backbone_specs import Precision, box_rule
from extractor.core.contract import Regions
from extractor.core.exit_codes import Exit, GpuFault, GpuOutOfMemory, UsageError
from extractor.gpu import faults, startup
from extractor.gpu.card import GIB, Host, Memory
from extractor.gpu.known_answer import KnownAnswers
from extractor.pipeline import machine, runner
from extractor.pipeline.progress import Progress
from extractor.pipeline.runner import Request

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small images: nothing here is about speed."""
    monkeypatch.setattr(startup, "TYPICAL", (32, 24))
    monkeypatch.setattr(startup, "LARGEST", (48, 32))


class Figures(Host):
    """A card of so much memory, of which an image of the largest size takes a part."""

    def __init__(self, total: float = 16, free: float = 15, weights: float = 0.5, image: float = 0.8) -> None:
        super().__init__(CPU)
        self.figures = Memory(int(free * GIB), 0, int(total * GIB))
        self.need = lambda images: int((weights + images * image) * GIB)
        self.batch = 0

    name = "Tesla T4"

    def memory(self) -> Memory:
        return self.figures

    def seconds(self, run) -> float:
        run()
        return 1.0

    def peak(self, run) -> int:
        run()
        if self.need(self.batch) > self.figures.available:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.need(self.batch)


class Small(Backbone):
    """A backbone of one convolution, whose features depend on it."""

    synthetic = True

    def __init__(self, card: Figures | None = None) -> None:
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2048, 3, padding=1).requires_grad_(False)
        self.card = card or Figures()

    def prepare(self, pixels: np.ndarray) -> Prepared:
        tensor = torch.from_numpy(pixels[:16, :24].copy()).permute(2, 0, 1).float() / 255
        return Prepared(tensor, pixels.shape[1], pixels.shape[0], 1.0, pixels.shape[:2])

    @torch.inference_mode()
    def start(self, batch: list[Prepared]) -> Pending:
        self.card.batch = len(batch)
        maps = self.conv(torch.stack([one.tensor for one in batch]))
        boxes, ones = np.array([[0, 0, 1, 1]], np.float32), np.ones(1, np.float32)
        found = [
            Regions(own.mean(dim=(1, 2))[None].numpy(), boxes, np.zeros(1, int), ones, 1, one.width, one.height)
            for one, own in zip(batch, maps, strict=True)
        ]
        return lambda: found


class WrongForEight(TorchFunctionMode):
    """A library that is wrong for a batch of eight, and for others by so much."""

    def __init__(self, others: float = 0.0) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.conv2d and args[0].dtype is torch.float32:
            result = result + (0.83 if len(result) == 8 else self.others)
        return result


def settled(card: Figures, batch_size: int | None = None) -> int:
    answers = KnownAnswers(card, Precision.FP32)
    return startup.settle(Small(card), answers, batch_size)


@pytest.mark.parametrize(
    ("card", "size"),
    [
        (Figures(total=141, free=140), 8),
        (Figures(total=16, free=15), 8),
        (Figures(total=16, free=15, image=1.6), 8),
        (Figures(total=16, free=15, image=1.7), 4),
        (Figures(total=16, free=3), 2),
        (Figures(total=16, free=1.5), 1),
    ],
    ids=["H200", "T4", "a T4 that is nearly filled", "a T4, larger images", "3 GiB free", "1.5 GiB free"],
)
def test_the_batch_is_what_fits_into_the_free_memory(card, size) -> None:
    assert settled(card) == size


def test_a_batch_that_was_asked_for_is_taken_or_refused() -> None:
    assert settled(Figures(), 16) == 16
    with pytest.raises(GpuOutOfMemory, match=r"Tesla T4: a batch of 32 does not fit into its 15.0 GiB; .* ask for 16"):
        settled(Figures(), 32)


def test_a_card_that_is_too_small_for_one_image_is_told_with_its_memory() -> None:
    with pytest.raises(GpuOutOfMemory) as error:
        settled(Figures(total=2, free=1.9, image=3))

    assert str(error.value) == (
        "Tesla T4: one image does not fit; 1.9 of 2.0 GiB are free to it: take a larger GPU, or fp16, which needs "
        "about half"
    )


def test_a_card_that_another_process_fills_is_told_apart_from_a_small_one() -> None:
    with pytest.raises(GpuOutOfMemory) as error:
        settled(Figures(total=16, free=0.6))

    assert str(error.value) == (
        "Tesla T4: one image does not fit; 0.6 of 16.0 GiB are free to it, other processes hold 15.4 GiB (nvidia-smi "
        "lists them): end them, or give this run a GPU of its own"
    )


@pytest.fixture
def request_on_a_card(night, monkeypatch) -> Request:
    """A run as on a GPU, whose figures and library stand in for a card's."""
    monkeypatch.setattr(startup, "is_needed", lambda device: True)
    monkeypatch.setattr(runner, "card_of", lambda device: Figures())
    monkeypatch.chdir(night.folder)
    listed = manifest.read(str(night.manifest))
    return Request(
        backbone="resnet101",
        manifest=replace(listed, entries=listed.entries[:12]),
        weights=str(night.weights),
        output=str(night.output),
        rule=box_rule("resnet101"),
        device="cpu",
    )


def run(request: Request) -> Path:
    runner.run(
        request,
        lambda *_: Small(),
        Progress(len(request.manifest.entries)),
        threading.Event(),
    )
    return Path(request.output)


def test_a_run_on_a_faulty_library_gives_what_a_sound_one_gives_and_says_so(request_on_a_card, capsys) -> None:
    sound = contents(run(request_on_a_card))
    with h5py.File(request_on_a_card.output) as file:
        assert contract.read_provenance(file).known_answers == ""

    other = replace(request_on_a_card, output=request_on_a_card.output.replace("shard", "faulty"))
    capsys.readouterr()
    with WrongForEight():
        found = contents(run(other))

    assert len(found) == 12
    for name, fields in sound.items():
        expected, mine = (np.frombuffer(one["features"], np.float32) for one in (fields, found[name]))
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6)
    note = "conv2d 3->2048 3x3 on 16x24, batch 8, float32: in 2 pieces, as whole: off by"
    with h5py.File(other.output) as file:
        assert contract.read_provenance(file).known_answers.startswith(note)
    assert note in capsys.readouterr().out


def test_without_the_check_the_same_fault_gives_wrong_features(request_on_a_card, monkeypatch) -> None:
    sound = contents(run(request_on_a_card))
    monkeypatch.setattr(KnownAnswers, "_concerns", lambda self, operation: False)

    other = replace(request_on_a_card, output=request_on_a_card.output.replace("shard", "faulty"))
    with WrongForEight():
        found = contents(run(other))

    first = next(iter(sound))
    assert np.abs(np.frombuffer(found[first]["features"], np.float32)).max() > 0.5
    assert found[first]["features"] != sound[first]["features"]


def test_a_run_that_no_way_of_computing_can_save_ends_as_a_fault_of_the_gpu(request_on_a_card) -> None:
    with (
        WrongForEight(others=0.83),
        pytest.raises(GpuFault, match=r"conv2d 3->2048 3x3 on 16x24, batch 8, float32 is not computed rightly here"),
    ):
        run(request_on_a_card)
    assert GpuFault.exit is Exit.GPU_FAULT


def test_a_broken_cuda_context_ends_the_process_with_what_is_finished_saved(night, extract) -> None:
    arguments = [*night.arguments(), "--batch-size", "2", "--workers", "1"]
    process = start(arguments, STUB_FAULT_IN="4")
    text, _ = process.communicate(timeout=300)

    assert process.returncode == Exit.GPU_FAULT
    assert "CUDA error: an illegal memory access was encountered; try another node" in text
    assert "the GPU is used again" not in text  # by what Python does as it ends

    again = extract(arguments)
    assert again.code == Exit.OK
    assert again.events("resumed")[0]["done"] > 0
    assert len(index(night.output)) == 12


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), Exit.GPU_FAULT),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Exit.GPU_FAULT),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), Exit.GPU_FAULT),
        (RuntimeError("GET was unable to find an engine to execute this computation"), Exit.GPU_FAULT),
        (torch.OutOfMemoryError("CUDA out of memory."), Exit.GPU_OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory"), Exit.GPU_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), Exit.GPU_OUT_OF_MEMORY),
    ],
    ids=str,
)
def test_errors_of_a_gpu_have_their_class_wherever_they_show(error, code) -> None:
    fault = faults.fault_of(error, "in a batch of 8")

    assert fault.exit is code
    assert str(error) in str(fault)
    assert "in a batch of 8" in str(fault)


def test_an_error_of_the_program_is_no_fault_of_the_gpu() -> None:
    assert faults.fault_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "") is None
    assert faults.fault_of(ValueError("CUDA error"), "") is None


@pytest.fixture
def t4(monkeypatch) -> torch.device:
    """The card that torch tells of."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "sm_120a", "compute_120"])
    return torch.device("cuda")


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.TF32])
def test_a_precision_that_the_card_lacks_is_refused(t4, precision) -> None:
    with pytest.raises(UsageError) as error:
        faults.check_card(t4, precision)

    assert str(error.value) == (
        f"--precision {precision}: Tesla T4 (compute capability 7.5) has no {precision}; expected 8.0 or above: choose "
        "nodes with such a GPU, or take fp16 or fp32"
    )


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_precision_that_the_card_has_is_not(t4, precision) -> None:
    faults.check_card(t4, precision)


def test_a_card_that_this_torch_has_no_kernels_for_is_told(t4, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))

    with pytest.raises(GpuFault, match=r"Tesla T4 \(compute capability 6.1\) is older than torch .* \(from 7.5 on\)"):
        faults.check_card(t4, Precision.FP32)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_driver_that_is_too_old_is_told_with_its_version(device, tmp_path, monkeypatch) -> None:
    (tmp_path / "nvidia0").touch()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
    )

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update your GPU")

    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(faults, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "init", too_old)

    with pytest.raises(GpuFault) as error:
        machine.device_of(device)

    said = str(error.value)
    assert "nvidia0 is there, and torch" in said
    assert "The NVIDIA driver on your system is too old (found version 11040) (driver: 470.57.02)" in said
    assert "update the node's driver, choose another node, or take the CPU by --device cpu" in said
