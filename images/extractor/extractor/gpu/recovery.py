"""What the GPU's driver asks for after an error: NVML tells it since driver R565, where its Python binding is there.

Source: NVML's header, nvmlGpuRecoveryAction_t; in the words that the driver's Xid 154 has for them.
"""

from typing import Any

import torch

ACTIONS = {
    1: "GPU Reset Required",
    2: "Node Reboot Required",
    3: "Drain P2P",
    4: "Drain and Reset",
    5: "Recover the IMEX domain",
    6: "Bus Reset",
    7: "System Reboot",
}
"""By NVML's number; 0 asks for nothing."""


def told() -> str:
    """A sentence for the end of an error's message; empty where the driver asks for nothing, or cannot be asked."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return ""
    try:
        number = _asked(pynvml)
    except (pynvml.NVMLError, RuntimeError, OSError, AttributeError, AssertionError):
        return ""
    return f"; recovery action: {ACTIONS[number]}" if number in ACTIONS else ""


def _asked(nvml: Any) -> int:
    """The action for the GPU at work, 0 for none; raises what NVML or torch raise."""
    nvml.nvmlInit()
    try:
        # Known since before the error; of an own context, which may be lost, nothing is asked.
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        (found,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        return int(found.value.uiVal) if found.nvmlReturn == nvml.NVML_SUCCESS else 0
    finally:
        nvml.nvmlShutdown()
