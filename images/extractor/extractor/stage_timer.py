"""Where the time of a run goes, stage by stage: for the benchmark."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_spent: dict[str, float] = {}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Charge the block's wall time to a stage; threads that overlap are each charged in full."""
    started = time.perf_counter()
    try:
        yield
    finally:
        charge(name, time.perf_counter() - started)


def charge(name: str, seconds: float) -> None:
    """Add to a stage what was measured otherwise."""
    with _lock:
        _spent[name] = _spent.get(name, 0.0) + seconds


def collect() -> dict[str, float]:
    """Seconds per stage since the last call."""
    with _lock:
        spent = dict(_spent)
        _spent.clear()
    return spent
