"""The extractor's structured lines as people read them in a task's log."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import IO

from extractor.core.redact import fit

LINE_BYTES = 2048
"""Of the longest line that is shown."""
READ_CHARACTERS = 64 * 1024
"""Of a line at the most: nothing bounds what a process may write before it ends one."""


def readable(line: str) -> str:
    """One line of the extractor's output, fit to be shown; what is not one of its JSON lines stays as it is."""
    return fit(_readable(line), LINE_BYTES)


def lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a stream, each without its end, and of an endless one its beginning."""
    while line := stream.readline(READ_CHARACTERS):
        rest = line
        while rest and not rest.endswith("\n"):
            rest = stream.readline(READ_CHARACTERS)
        yield line.removesuffix("\n")


def _readable(line: str) -> str:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(said, dict) or "event" not in said:
        return line
    if said["event"] == "progress":
        left = said.get("seconds_left")
        time_left = f", {_duration(left)} left" if isinstance(left, int | float) and math.isfinite(left) else ""
        return (
            f"{said.get('done')} of {said.get('of')} images, {said.get('images_per_second')} images/s{time_left}, "
            f"{said.get('rejected')} rejected"
        )
    rest = ", ".join(
        f"{name} {value}" for name, value in said.items() if name not in {"event", "level", "timestamp"} and value != ""
    )
    return f"{said['event']}: {rest}" if rest else str(said["event"])


def last_progress(lines: Sequence[str]) -> str:
    """The last of these lines that says how far the work is, readable; empty when none does."""
    return next((readable(line) for line in reversed(lines) if '"event": "progress"' in line), "")


def images_done(lines: Sequence[str]) -> int:
    """How many images the last of these lines that says so calls done."""
    for line in reversed(lines):
        if '"event": "progress"' in line:
            try:
                done = json.loads(line).get("done")
            except (ValueError, RecursionError):
                continue
            if isinstance(done, int):
                return done
    return 0


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
