"""What the demo says on the console: live progress where there is a terminal, lines where not, a table at the end."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from featurise_demo.night import NightResult, Status

# Where the output is kept in a file there is no width to ask for.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


QUIET_SECONDS = 10.0
"""After this long without a line, the time so far is printed."""
_said = time.monotonic()


def say(text: str) -> None:
    """One line."""
    global _said
    _said = time.monotonic()
    console.print(text, soft_wrap=True, markup=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what is done now, and the time so far whenever nothing else was said for a while, until the block ends."""
    say(what)
    started, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(QUIET_SECONDS / 5):
            if time.monotonic() - _said > QUIET_SECONDS:
                say(f"  {time.monotonic() - started:.0f} s …")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


class LiveOutcomes:
    """The runs' progress, shown in place; where the console is no terminal, a line for every change."""

    def __init__(self) -> None:
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told: dict[tuple[str, str], str] = {}

    def __enter__(self) -> "LiveOutcomes":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, statuses: Sequence[Status]) -> None:
        """Bring it up to date."""
        global _said
        if self._live:
            self._live.update(_progress(statuses), refresh=True)
            _said = time.monotonic()
            return
        for status in statuses:
            text = " ".join(filter(None, (status.state, status.step, _images(status))))
            if self._told.get((status.night, status.dag_id)) != text:
                self._told[status.night, status.dag_id] = text
                say(f"  {status.night} {status.dag_id}: {text}")


def _images(status: Status) -> str:
    if not status.of:
        return ""
    left = f", {status.left} left" if status.left else ""
    return f"{status.done} of {status.of} images, {status.rate} images/s{left}"


def _progress(statuses: Sequence[Status]) -> Table:
    table = Table.grid(padding=(0, 2))
    for status in statuses:
        bar = ProgressBar(total=status.of, completed=status.done, width=20) if status.of else ""
        table.add_row(status.night, status.dag_id, status.state, status.step, bar, _images(status))
    return table


def outcomes(rows: Sequence[NightResult], synthetic: Sequence[str]) -> Table:
    """The demo's result: a line per night and backbone."""
    table = Table(title="What the two nights brought", title_justify="left")
    for name in ("night", "backbone", "weights"):
        table.add_column(name, no_wrap=True)
    for name in ("found", "featurised", "rejected", "files", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("run")
    for row in rows:
        backbone = row.dag_id.rpartition("__")[2]
        counts = (row.found, row.featurised, row.rejected, len(row.files), round(row.seconds))
        weights = "[bold]synthetic[/bold]" if backbone in synthetic else "published"
        table.add_row(row.night, backbone, weights, *map(str, counts), row.state)
    return table
