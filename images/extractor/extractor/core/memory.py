"""How glibc deals with freed memory, and what processes took of this machine's, in words for people."""

import ctypes
import re
import resource
from pathlib import Path

MEMINFO, VMSTAT = Path("/proc/meminfo"), Path("/proc/vmstat")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
NO_LIMIT = 2**60
"""Bytes; what cgroup v1 says where there is none lies above."""
KIB_PER_GIB = 1024**2
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's mallopt."""


def return_freed() -> None:
    """Have glibc return large blocks, such as images, to the system as soon as they are freed.

    By default it learns to keep blocks of up to 32 MiB on its heap, where small ones come to lie between them and hold
    their place.
    """
    _mallopt(M_MMAP_THRESHOLD, 1024 * 1024)


def keep_freed() -> None:
    """Have glibc reuse the pages of freed activations, which it otherwise returns and faults in at every layer."""
    _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    _mallopt(M_MMAP_MAX, 0)


def _mallopt(option: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(option, value)


def peak(who: int, name: str) -> str:
    """The most memory that one process held.

    Args:
        who: resource.RUSAGE_SELF, or RUSAGE_CHILDREN for the largest of the children that have ended.
        name: of it, for the text.
    """
    return f"{name} took {resource.getrusage(who).ru_maxrss / KIB_PER_GIB:.1f} GiB at most"


def available() -> tuple[int, int]:
    """Bytes that a process can have now without swapping, and those of the machine.

    Raises KeyError where the kernel is not Linux.
    """
    known = _numbers(MEMINFO)
    return known["MemAvailable"] * 1024, known["MemTotal"] * 1024


def left() -> str:
    """How much the machine has free now, and how much the container may have; empty where the system does not say."""
    told = []
    known = _numbers(MEMINFO)
    if {"MemTotal", "MemAvailable"} <= known.keys():
        free, whole = (known[name] / KIB_PER_GIB for name in ("MemAvailable", "MemTotal"))
        told.append(f"the machine has {free:.1f} of {whole:.1f} GiB free now")
    limit = next((file.read_text().strip() for file in CGROUP_LIMITS if file.exists()), "")
    if limit.isdigit() and int(limit) < NO_LIMIT:
        told.append(f"the container may have {int(limit) / 2**30:.1f} GiB")
    return ", ".join(told)


def kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since it started."""
    return _numbers(VMSTAT).get("oom_kill", 0)


def _numbers(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", file.read_text(), re.MULTILINE)}
