"""What NVML says that a GPU needs after an error; where it cannot be asked, the error is told as it was."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from extractor.core.exit_codes import GpuFault
from extractor.gpu import recovery
from extractor.gpu.faults import fault_of

ERROR = RuntimeError("CUDA error: an illegal memory access was encountered")


class NVMLError(Exception):
    """The binding's own base of all its errors."""


def binding(action: int | Exception, returned: int = 0) -> ModuleType:
    """NVML's Python binding, as far as it is asked here, in front of a driver that says this."""
    made: Any = ModuleType("pynvml")

    def values(handle: object, fields: list[int]) -> list[Any]:
        assert (handle, fields) == ("GPU-1234", [230])
        if isinstance(action, Exception):
            raise action
        return [SimpleNamespace(nvmlReturn=returned, value=SimpleNamespace(uiVal=action))]

    made.NVMLError, made.NVML_SUCCESS, made.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = NVMLError, 0, 230
    made.nvmlInit = made.nvmlShutdown = lambda: None
    made.nvmlDeviceGetHandleByUUID = str
    made.nvmlDeviceGetFieldValues = values
    return made


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch knows the GPU that was at work."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (binding(1), "; recovery action: GPU Reset Required"),
        (binding(2), "; recovery action: Node Reboot Required"),
        (binding(0), ""),
        (binding(99), ""),
        (binding(1, returned=3), ""),
        (binding(NVMLError("Driver Not Loaded")), ""),
        (binding(OSError("no library")), ""),
        (None, ""),
    ],
)
def test_an_error_of_the_gpu_ends_with_what_the_driver_asks_for(
    monkeypatch: pytest.MonkeyPatch, card: None, module: ModuleType | None, told: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    fault = fault_of(ERROR, "in a batch of 8")
    assert isinstance(fault, GpuFault)
    assert str(fault).partition("try another node")[2] == told


def test_a_driver_that_is_older_than_the_field_asks_for_nothing(monkeypatch: pytest.MonkeyPatch, card: None) -> None:
    module: Any = binding(1)
    del module.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert recovery.told() == ""


def test_where_torch_has_lost_the_gpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> int:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setitem(sys.modules, "pynvml", binding(1))
    monkeypatch.setattr(torch.cuda, "current_device", lost)
    assert recovery.told() == ""


def test_the_actions_are_those_of_nvidia_s_own_binding(card: None) -> None:
    import pynvml

    prefix = "NVML_GPU_RECOVERY_ACTION_"
    known = {value: name.removeprefix(prefix) for name, value in vars(pynvml).items() if name.startswith(prefix)}
    assert known.pop(0) == "NONE"
    assert known.keys() == recovery.ACTIONS.keys()
    assert "REBOOT" in known[2]
    assert "Reboot" in recovery.ACTIONS[2]
    assert recovery.told() == "", "without a driver, or for a card that it does not know"
