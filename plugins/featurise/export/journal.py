"""What an export's folder says of itself: which sources were begun, and which are whole."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from featurise.export.selection import ExportFailed
from featurise.export.source import Outdated, Source
from featurise.export.writer import Writer

NAME = "export.jsonl"
LINE = b'{"form":'
"""How a line of the journal begins."""


class Line(BaseModel):
    """A line of the journal: a source that is begun, or one that is exported, and where the next one starts."""

    form: str
    feature_set: str
    options: str = ""
    source: str = ""
    digest: str = ""
    offset: int | None = None

    @property
    def whole(self) -> str:
        """What all lines of one journal share."""
        return f"{self.feature_set} as {self.form}" + (f" ({self.options})" if self.options else "")


@dataclass(frozen=True)
class Written:
    """The sources that were begun, those that are done, and where the next one starts."""

    begun: frozenset[str]
    done: frozenset[str]
    offset: int


def read(folder: Path, asked: Line, planned: Sequence[Source]) -> Written:
    """What a folder's journal says, if it has one.

    New files may have come since, but what was written, be it a part of a source, must still be so.
    Raises ExportFailed, and Outdated when it is not so any more.
    """
    lines = _lines(folder / NAME) if (folder / NAME).exists() else []
    wanted = {source.name: source.digest for source in planned}
    for line in lines:
        if line.whole != asked.whole:
            raise ExportFailed(
                f"{folder} holds an export of {line.whole}, asked is {asked.whole}; choose another folder"
            )
        if wanted.get(line.source) != line.digest:
            raise Outdated(
                f"{folder} holds images of {line.source} that have been replaced or removed since; "
                "make it again with --renew, or choose another folder"
            )
    done = {line.source: line.offset for line in lines if line.offset is not None}
    return Written(frozenset(line.source for line in lines), frozenset(done), max(done.values(), default=0))


def append(folder: Path, line: Line) -> None:
    """Write a line, for good."""
    with (folder / NAME).open("a") as file:
        file.write(line.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_held(folder: Path, writer: Writer, there: Sequence[Source]) -> None:
    """Whether everything that the journal counts as exported is still there.

    Raises ExportFailed.
    """
    for source in there:
        if not writer.holds(source):
            raise ExportFailed(
                f"{folder}: what was exported of {source.name} is gone although {NAME} counts it as exported; "
                f"remove {folder} to export again, or choose another folder"
            )


def _lines(journal: Path) -> list[Line]:
    """What the journal says; a last line that was cut off is removed: the next one would be written behind it.

    Raises ExportFailed when it is another kind of file.
    """
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    refused = ExportFailed(f"{journal} is no journal of an export; choose another folder")
    if not data.startswith(LINE[: len(data)]):
        raise refused
    try:
        lines = [Line.model_validate_json(text) for text in whole.splitlines()]
    except ValidationError as error:
        raise refused from error
    os.truncate(journal, len(whole))
    return lines
