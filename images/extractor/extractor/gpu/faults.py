"""What is wrong with a GPU: told before work begins where it can be, classed where it shows on the way."""

import re
from pathlib import Path

import torch

from extractor.core.backbone_specs import Precision
from extractor.core.exit_codes import ExtractorError, GpuFault, GpuOutOfMemory, UsageError
from extractor.gpu import recovery
from extractor.gpu.card import GIB, Memory

DRIVER = Path("/proc/driver/nvidia/version")
"""Where the kernel module tells its version."""

AMPERE = (8, 0)
"""The first compute capability with bf16 and TF32; earlier cards would compute in other types without a word."""

_FAULT = re.compile(
    r"CUDA error|CUDA driver error|CUDNN_STATUS_|cuDNN error|CUBLAS_STATUS_|device-side assert|unable to find an engine"
)
_MEMORY = re.compile(r"CUDA error: out of memory|_STATUS_ALLOC_FAILED|CUDA out of memory")


def fault_of(error: BaseException, doing: str) -> ExtractorError | None:
    """The class of an error that came from a GPU or its libraries, None of any other.

    After a GpuFault the process must not use the GPU again: the errors of a kernel stay with its context.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return GpuOutOfMemory(f"the GPU's memory did not suffice {doing}, retry with half the batch size: {text}")
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and _FAULT.search(text)):
        return GpuFault(f"the GPU failed {doing}: {text}; try another node{recovery.told()}")
    return None


def unusable(devices: list[str]) -> GpuFault:
    """Why torch cannot use the GPUs that this machine has, in its own words and with the driver's version."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        said = "it sees none"
    except (RuntimeError, AssertionError) as error:
        said = str(error).split(". ")[0].partition("\n")[0]
    return GpuFault(
        f"{', '.join(devices)} is there, and torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot "
        f"use it: {said} (driver: {driver() or 'none is loaded'}); update the node's driver, choose another node, or "
        "take the CPU by --device cpu"
    )


def driver() -> str | None:
    """The version of NVIDIA's kernel module, such as `535.104.05`."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def check_card(device: torch.device, precision: Precision) -> None:
    """Raises UsageError when the card lacks the precision, GpuFault when this torch has no kernels for the card."""
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    has = f"{name} (compute capability {capability[0]}.{capability[1]})"
    built = [int(arch[3:].rstrip("af")) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    oldest = min(built, default=0)
    if capability[0] * 10 + capability[1] < oldest:
        raise GpuFault(
            f"{has} is older than torch {torch.__version__} has kernels for (from {oldest / 10:.1f} on); choose a node "
            "with a newer GPU, or an image with an older torch"
        )
    if precision in (Precision.BF16, Precision.TF32) and capability < AMPERE:
        raise UsageError(
            f"--precision {precision}: {has} has no {precision}; expected 8.0 or above: choose nodes with such a GPU, "
            "or take fp16 or fp32"
        )


def too_little_memory(name: str, memory: Memory, what: str) -> GpuOutOfMemory:
    """What to do where not even one image fits: other processes hold the card, or it is too small."""
    found = f"{name}: {what} does not fit; {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB are free to it"
    if memory.others > memory.total / 4:
        return GpuOutOfMemory(
            f"{found}, other processes hold {memory.others / GIB:.1f} GiB (nvidia-smi lists them): end them, or give "
            "this run a GPU of its own"
        )
    return GpuOutOfMemory(f"{found}: take a larger GPU, or fp16, which needs about half")
