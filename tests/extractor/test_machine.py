"""Which device a run takes."""

from pathlib import Path

import pytest
import torch

from extractor import machine
from extractor.outcome import GpuFault


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device folder of a machine whose GPUs, if any, torch cannot use."""
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def test_a_machine_without_gpus_takes_its_cpu(devices: Path) -> None:
    (devices / "nvidiactl").touch()  # of the driver alone

    assert machine.device_of("auto") == torch.device("cpu")


def test_a_gpu_that_cannot_be_used_is_no_reason_to_take_the_cpu_in_silence(devices: Path) -> None:
    (devices / "nvidia0").touch()

    with pytest.raises(GpuFault, match="nvidia0 is there, and torch"):
        machine.device_of("auto")
    assert machine.device_of("cpu") == torch.device("cpu")
