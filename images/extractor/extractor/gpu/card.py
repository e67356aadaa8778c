"""One GPU: its memory and its clock. A CPU stands in where there is none: it has no workspaces to measure."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from extractor.core import memory

GIB = 2**30

Result = TypeVar("Result")


class Memory(NamedTuple):
    """Bytes of a card: `free` to anyone, `own` held by this process (in use, or kept to be used again), `total`."""

    free: int
    own: int
    total: int

    @property
    def available(self) -> int:
        """What this process may use."""
        return self.free + self.own

    @property
    def others(self) -> int:
        """What other processes hold."""
        return max(0, self.total - self.available)


class Host:
    """The CPU, where a check is tried without a card."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.device)

    @property
    def libraries(self) -> str:
        """The versions that decide, with the device, how an operation is computed."""
        return f"torch {torch.__version__}, {self.name}"

    @property
    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured: nothing may wait then."""
        return False

    def memory(self) -> Memory:
        """The memory now; the host's own is what the kernel could give to a process."""
        free, total = memory.available()
        return Memory(free, 0, total)

    def workspace(self, run: Callable[[], Result]) -> tuple[Result, int]:
        """What `run` returns, and the bytes that it took at its peak beyond what stays allocated."""
        return run(), 0

    def peak(self, run: Callable[[], object]) -> int:
        """The bytes that this process holds at its peak while it runs, all that it has loaded included."""
        run()
        return 0

    def seconds(self, run: Callable[[], object]) -> float:
        """How long it takes."""
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    def release(self) -> None:
        """Give memory that is kept for later back to the card."""


class Card(Host):
    """A GPU, by CUDA."""

    @property
    def name(self) -> str:
        """Such as `NVIDIA H200`."""
        return torch.cuda.get_device_name(self.device)

    @property
    def libraries(self) -> str:
        """Such as `torch 2.11.0, cuDNN 9.19.0, CUDA 13.0, NVIDIA H200`."""
        return f"torch {torch.__version__}, cuDNN {_cudnn()}, CUDA {torch.version.cuda}, {self.name}"

    @property
    def capturing(self) -> bool:
        """Whether this thread captures a CUDA graph."""
        return torch.cuda.is_current_stream_capturing()

    def memory(self) -> Memory:
        """As the driver tells it."""
        free, total = torch.cuda.mem_get_info(self.device)
        return Memory(free, torch.cuda.memory_reserved(self.device), total)

    def workspace(self, run: Callable[[], Result]) -> tuple[Result, int]:
        """By the allocator's own count."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        result = run()
        after = torch.cuda.memory_allocated(self.device)
        return result, max(0, torch.cuda.max_memory_allocated(self.device) - max(before, after))

    def peak(self, run: Callable[[], object]) -> int:
        """What the allocator holds of the card, fragments included."""
        self.release()
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_reserved(self.device)

    def seconds(self, run: Callable[[], object]) -> float:
        """By CUDA's events."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def release(self) -> None:
        """The allocator's free blocks."""
        torch.cuda.empty_cache()


def _cudnn() -> str:
    version = int(torch.backends.cudnn.version() or 0)  # type: ignore[no-untyped-call]
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def card_of(device: torch.device) -> Host:
    """The card of a device."""
    return Card(device) if device.type == "cuda" else Host(device)
