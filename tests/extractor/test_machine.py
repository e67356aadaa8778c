"""Which device a run takes, and whether its disks have room."""

import shutil
from pathlib import Path

import pytest
import torch

from extractor.core.exit_codes import GpuFault, StorageError
from extractor.pipeline import machine


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


def test_folders_on_one_disk_need_room_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, output = tmp_path / "scratch", tmp_path / "output"
    scratch.mkdir()
    output.mkdir()
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1999))

    machine.check_disk(1000, scratch)
    machine.check_disk(1000, output)
    with pytest.raises(StorageError, match=f"{scratch} and {output}: 1,999 bytes free, this shard may need 2,000"):
        machine.check_disk(1000, scratch, output)


def test_folders_on_disks_of_their_own_need_room_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1999))

    machine.check_disk(1000, tmp_path, Path("/proc"))
    with pytest.raises(StorageError, match="/proc: 1,999 bytes free"):
        machine.check_disk(2000, Path("/proc"))
