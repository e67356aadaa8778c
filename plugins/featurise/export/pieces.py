"""A file for each published one: what formats have in common that keep a folder of files."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from featurise.export.selection import Options
from featurise.export.source import Source
from featurise.export.writer import Writer


class Pieces(Writer):
    """Writer of the folder `<dataset>` with a file for each source, which appears when it is whole."""

    suffix: ClassVar[str]

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        """The one folder."""
        del options
        return (dataset,)

    @abstractmethod
    def finish(self) -> None:
        """Close the file at `partial`, if one was begun."""

    def holds(self, source: Source) -> bool:
        """Whether the source's file is there."""
        return self._file(source).exists()

    def commit(self, source: Source) -> int:
        """Close the source's file, and give it its name."""
        self.finish()
        with self.partial.open("rb") as written:
            os.fsync(written.fileno())
        self.partial.replace(self._file(source))
        return 0

    @property
    def partial(self) -> Path:
        """Where the file that is not whole yet is written; its folder is there."""
        place = self.folder / self.dataset
        place.mkdir(exist_ok=True)
        return place / ".partial"

    def _file(self, source: Source) -> Path:
        return self.folder / self.dataset / f"{source.name}{self.suffix}"
