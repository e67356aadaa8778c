"""HDF5, one group per image: the published files' images in a folder, and one file that links them all.

Converters (VOLTA's, IGLUE's) open `<dataset>.h5` and see every image as a group of it; IGLUE's for WIT takes every
`*.h5` beside it for another share of the images, so that is the only one there. The links are relative: the folder can
be moved as a whole. A crash while an HDF5 file is written may spoil it, so each appears when it is whole.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from extractor.core import contract
from featurise.export import disk
from featurise.export.selection import Options
from featurise.export.source import Outdated, Source
from featurise.export.writer import Writer


class Hdf5(Writer):
    """Writer of `<dataset>/<batch>-<shard>.h5` files and of `<dataset>.h5`; or of that alone, with all images in it."""

    groups = True
    singles = True
    flags = True

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        self._open: h5py.File | None = None

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        return (f"{dataset}.h5",) if options.single else (dataset, f"{dataset}.h5")

    def holds(self, source: Source) -> bool:
        if (self.folder / f"{source.name}.h5").exists():
            raise Outdated(
                f"{self.folder} holds {source.name}.h5 beside {self.dataset}.h5, as versions before 0.2 laid it out; "
                "make it again with --renew, or choose another folder"
            )
        return self._file(source).exists() or (self.options.single and all(one in self._there for one in source.ids))

    def take(self, source: Source, file: Path) -> bool:
        with h5py.File(file, "r") as found:
            if source.found_under is not None or len(found) != len(source.ids):
                return False
            if found[source.ids[0]]["features"].dtype != np.float32:
                return False
        self._shards.mkdir(exist_ok=True)
        disk.move(file, self._file(source))
        return True

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        if self._open is None:
            self._shards.mkdir(exist_ok=True)
            self._open = contract.create(self._partial(source))
            for name, value in group.file.attrs.items():
                self._open.attrs[name] = value
        with disk.room_to_close(self._partial(source)):
            if group["features"].dtype == np.float32:
                group.file.copy(group.name, self._open, name=image_id)
            else:
                contract.write_image(self._open, image_id, self.regions(source, image_id, group))

    def commit(self, source: Source) -> int:
        if self._open is not None:
            with disk.room_to_close(self._partial(source)):
                self._open.close()
            self._open = None
            self._partial(source).replace(self._file(source))
        return 0

    def close(self) -> None:
        target = self.folder / f"{self.dataset}.h5"
        partial = target.with_name(f".{target.name}.partial")
        if self.options.single:
            self._join(target, partial)
            return
        with h5py.File(partial, "w", libver=disk.MANY) as file:
            for source in self.sources:
                for image_id in source.ids:
                    file[image_id] = h5py.ExternalLink(f"{self._shards.name}/{source.name}.h5", f"/{image_id}")
        disk.sync(partial)
        partial.replace(target)

    def release(self) -> None:
        if self._open is not None:
            with suppress(OSError, RuntimeError):  # what is still to be written does not matter, and may find no room
                self._open.close()

    @cached_property
    def _there(self) -> frozenset[str]:
        """The images of the one file that an earlier export made."""
        target = self.folder / f"{self.dataset}.h5"
        if not target.exists():
            return frozenset()
        with h5py.File(target, "r") as file:
            return frozenset(file)

    def _join(self, target: Path, partial: Path) -> None:
        """The shards into one file, onto which an earlier one counts; they go once it is whole."""
        pieces = [self._file(source) for source in self.sources if self._file(source).exists()]
        if not pieces:
            return
        if target.exists():
            shutil.copyfile(target, partial)
        else:
            partial.unlink(missing_ok=True)
        with disk.room_to_close(partial), h5py.File(partial, "a", libver=disk.MANY) as file:
            for piece in pieces:
                with h5py.File(piece, "r") as found:
                    for name in found:
                        if name not in file:
                            found.copy(name, file)
                    file.attrs.update(found.attrs)
        disk.sync(partial)
        partial.replace(target)
        shutil.rmtree(self._shards)

    @property
    def _shards(self) -> Path:
        return self.folder / (f".{self.dataset}.shards" if self.options.single else self.dataset)

    def _file(self, source: Source) -> Path:
        return self._shards / f"{source.name}.h5"

    def _partial(self, source: Source) -> Path:
        return self._shards / f".{source.name}.h5.partial"
