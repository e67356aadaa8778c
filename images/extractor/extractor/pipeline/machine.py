"""What the extractor needs to know of the machine and the process that it runs in."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import torch

from extractor.core.exit_codes import StorageError, UsageError
from extractor.gpu.faults import unusable

DEVICES = Path("/dev")


def device_of(name: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or a certain GPU such as `cuda:1`.

    Raises UsageError when it is none of these, or a GPU that is not there; GpuFault when `auto` meets a GPU that cannot
    be used: a CPU in its place would take days, and nobody would know why.
    """
    known = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if known is None:
        raise UsageError(f"--device {name}: there is no such device; expected auto, cpu, cuda, or one GPU as cuda:0")
    there = sorted(map(str, DEVICES.glob("nvidia[0-9]*")))
    if name == "auto":
        usable = torch.cuda.is_available()
        if there and torch.version.cuda and not usable:
            raise unusable(there)
        return torch.device("cuda" if usable else "cpu")
    if name != "cpu" and int(known[1] or 0) >= torch.cuda.device_count():
        if there and not torch.cuda.is_available():
            raise unusable(there)
        raise UsageError(f"--device {name}: torch sees no such GPU here; give the pod one, or use --device auto")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device as provenance names it, such as `cpu` or `cuda (NVIDIA H100)`."""
    if device.type == "cpu":
        return "cpu"
    return f"cuda ({torch.cuda.get_device_name(device)})"


def git_commit() -> str:
    """The commit that this extractor was built from: baked into images, asked of git in a checkout, else `unknown`."""
    baked = os.environ.get("FEATURISE_COMMIT")
    if baked:
        return baked
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = Path(__file__).parent
    found = subprocess.run([git, "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def short_of_memory(error: Exception) -> bool:
    """Whether an error says that this machine's memory does not suffice, whichever library raises it."""
    if isinstance(error, MemoryError):
        return True
    # OpenCV's and torch's, which are classes of their own.
    return getattr(error, "code", None) == -4 or "DefaultCPUAllocator" in str(error)


def check_disk(needed: int, *folders: Path) -> None:
    """Raises StorageError when a disk has not this many bytes free for each of the folders that lie on it."""
    disks = defaultdict(list)
    for folder in folders:
        disks[folder.stat().st_dev].append(folder)
    for together in disks.values():
        free, wanted = shutil.disk_usage(together[0]).free, needed * len(together)
        if free < wanted:
            raise StorageError(
                f"{' and '.join(map(str, together))}: {free:,} bytes free, this shard may need {wanted:,}; "
                "give it a larger disk (scratch: TMPDIR or --scratch, the file: --output), or plan smaller shards"
            )
