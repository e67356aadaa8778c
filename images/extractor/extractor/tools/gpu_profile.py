"""What a GPU does while something runs: how busy it is, and how often the host launches, waits and copies."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True)
class Profile:
    """Of one run: its seconds, the share of them in which the GPU worked (None: there is no GPU), and counts of the
    host's calls."""

    seconds: float
    busy: float | None
    launches: int
    synchronisations: int
    copies_to_host: int
    copies_to_device: int
    operations: int

    def as_json(self, images: int) -> dict[str, Any]:
        """Its figures, counts an image."""
        return {
            name: value if name == "busy" or value is None else value / images for name, value in asdict(self).items()
        }


def profiled(run: Callable[[], object]) -> Profile:
    """Run it under torch's profiler, whose own cost is in the seconds."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
    events = list(recorded.events() or ())
    host = [event for event in events if event.device_type == DeviceType.CPU]
    device = [event for event in events if event.device_type != DeviceType.CPU]
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    seconds = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e6 if spans else 0.0
    return Profile(
        seconds=seconds,
        busy=_covered((event.time_range.start, event.time_range.end) for event in device) / 1e6 / seconds
        if device
        else None,
        launches=sum(event.name.startswith(LAUNCHES) for event in host),
        synchronisations=sum(event.name in WAITS for event in host),
        copies_to_host=sum("Memcpy DtoH" in event.name for event in device),
        copies_to_device=sum("Memcpy HtoD" in event.name for event in device),
        operations=sum(event.name.startswith("aten::") for event in host),
    )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length that the spans cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
