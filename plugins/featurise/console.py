"""What the command line says: results to stdout, all else (failures, warnings, progress) to stderr."""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

AsJson = Annotated[bool, Parameter(name=["--json", "--as-json"], negative=())]
"""The option of every command that has results."""
console = Console()
errors = Console(stderr=True)
LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


def say(text: str, style: str | None = None, to: Console = console) -> None:
    """A line as it is, wrapped where it is shown."""
    to.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str, style: str | None = None) -> None:
    """A line that is no result."""
    say(text, style, errors)


def say_json(value: dict[str, Any]) -> None:
    """A result as a line of JSON; unlike print, it ends quietly when its reader, such as `head`, has gone."""
    console.out(json.dumps(value, default=str), highlight=False)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line now and then: at the start, at the end, and every ten seconds."""
    if errors.is_terminal:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=errors) as shown:
            bar = shown.add_task(what, total=None)
            yield lambda done, of: shown.update(bar, completed=done, total=of)
        return
    last = 0.0

    def line(done: int, of: int) -> None:
        nonlocal last
        if done == of or time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            warn(f"{what}: {done:,} of {of:,} images")

    yield line


def lines(found: Sequence[BaseModel]) -> None:
    """Results as lines of JSON."""
    for one in found:
        console.out(one.model_dump_json(), highlight=False)


def table(nothing: str, head: tuple[str, ...], rows: Sequence[tuple[str | None, ...]]) -> None:
    """Results as a table; without any, a line that says so."""
    if not rows:
        say(nothing)
        return
    shown = Table(*head)
    for row in rows:
        # Notes and messages are others': neither rich's markup nor a terminal's commands are followed.
        shown.add_row(*(escape("".join(filter(str.isprintable, each or ""))) for each in row))
    console.print(shown)


def moment(value: datetime.datetime | None) -> str:
    """A point in time, to the minute."""
    return f"{value:%Y-%m-%d %H:%M}" if value is not None else ""
