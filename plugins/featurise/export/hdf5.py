"""HDF5, one group per image: a file for each published one, and one that links them all.

Converters (VOLTA's, IGLUE's) open `<dataset>.h5` and see every image as a group of it; the links are relative, so the
folder can be moved as a whole. A crash while an HDF5 file is written may spoil it, so each appears when it is whole.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from extractor.core import contract
from featurise.export.source import Source


class Hdf5:
    """Writer of `<batch>-<shard>.h5` files and of `<dataset>.h5`."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        del offset
        self._folder, self._sources = folder, sources
        self._open: h5py.File | None = None
        self.target = folder / f"{dataset}.h5"

    def holds(self, source: Source) -> bool:
        return self._file(source).exists()

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        if self._open is None:
            self._open = contract.create(self._partial(source))
            for name, value in group.file.attrs.items():
                self._open.attrs[name] = value
        with self._room_to_close(source):
            group.file.copy(image_id, self._open, name=image_id)

    def commit(self, source: Source) -> int:
        if self._open is not None:
            with self._room_to_close(source):
                self._open.close()
            self._open = None
            self._partial(source).replace(self._file(source))
        return 0

    def close(self) -> None:
        partial = self.target.with_name(f".{self.target.name}.partial")
        with h5py.File(partial, "w") as file:
            for source in self._sources:
                for image_id in source.ids:
                    file[image_id] = h5py.ExternalLink(f"{source.name}.h5", f"/{image_id}")
        partial.replace(self.target)

    def release(self) -> None:
        if self._open is not None:
            with suppress(OSError, RuntimeError):  # what is still to be written does not matter, and may find no room
                self._open.close()

    @contextmanager
    def _room_to_close(self, source: Source) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError):
            # HDF5 writes once more as the process ends, and prints tracebacks when there still is no room.
            os.truncate(self._partial(source), 0)
            raise

    def _file(self, source: Source) -> Path:
        return self._folder / f"{source.name}.h5"

    def _partial(self, source: Source) -> Path:
        return self._folder / f".{source.name}.h5.partial"
