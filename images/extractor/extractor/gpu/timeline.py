"""How long a device works on each stage of a batch, without anyone waiting for it in between."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from extractor import stage_timer


class Timeline:
    """The stages of one batch: on a GPU between events in its stream, on a CPU by the clock."""

    def __init__(self, device: torch.device) -> None:
        self._asynchronous = device.type == "cuda"
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what is computed in this block to a stage."""
        if not self._asynchronous:
            with stage_timer.stage(name):
                yield
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        yield
        end.record()
        self._spans.append((name, start, end))

    def close(self) -> None:
        """Tell `extractor.stage_timer`, once the batch's results are there."""
        for name, start, end in self._spans:
            stage_timer.charge(name, start.elapsed_time(end) / 1000)
        self._spans.clear()
