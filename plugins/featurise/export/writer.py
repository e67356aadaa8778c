"""What every format's writer does: take a source's images, then commit them; what was not committed is repeated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import h5py

from featurise.export.source import Source


class Writer(Protocol):
    """Writes one export into a folder; made anew for every attempt."""

    target: Path
    """What this format's readers open. Nothing is written there, or anywhere else, before the first image is added."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        """`sources` are all of the export's; `offset` is what the last commit of an earlier attempt returned, else 0.

        Raises ExportFailed when the readers of this format could not tell these images apart, or not hold them.
        """

    def holds(self, source: Source) -> bool:
        """Whether a source that was committed in an earlier attempt is still there; asked before anything is added."""

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        """Take one image.

        Raises ExportFailed when it cannot be read, or lacks what this format holds.
        """

    def commit(self, source: Source) -> int:
        """Make everything added since the last commit durable and readable; returns where the next one starts."""

    def close(self) -> None:
        """Finish the export."""

    def release(self) -> None:
        """Let go of every file, finished or not: another attempt, in this process too, may follow at once."""
