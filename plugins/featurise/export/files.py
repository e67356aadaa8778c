"""Files for each image: mmf's `<id>.npy` and `<id>_info.npy`, and bottom-up-attention.pytorch's `<id>.npz`."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from featurise.export import items, mmf_names, pickles, writer
from featurise.export.selection import Options
from featurise.export.source import Source
from featurise.export.writer import Writer

INFO = "_info.npy"


class _FilesByImage(Writer):
    """Writer into the folder `<dataset>`, whose files are whole as soon as they have their names."""

    last: ClassVar[str]
    """What follows an id in the name of the file that is written last."""

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (dataset,)

    def holds(self, source: Source) -> bool:
        return all((self._files / f"{image_id}{self.last}").exists() for image_id in source.ids)

    def commit(self, source: Source) -> int:
        del source
        os.sync()
        return 0

    @property
    def _files(self) -> Path:
        return self.folder / self.dataset

    def _put(self, name: str, data: bytes) -> None:
        target, partial = self._files / name, self._files / ".partial"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(target)


class MmfFiles(_FilesByImage):
    """Writer of two files an image. The reader asks for the features, so they come last: both are there, or neither.

    An id that is a path is one here, too: mmf joins folder and name.
    """

    flags = True
    last = ".npy"

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        mmf_names.check_files(sources)
        writer.check_paths("npy-mmf", sources, os.pathconf(folder, "PC_NAME_MAX") - len(INFO))

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = self.regions(source, image_id, group)
        features = io.BytesIO()
        np.save(features, found.features)
        self._put(f"{image_id}{INFO}", pickles.npy(items.mmf_info(found)))
        self._put(f"{image_id}.npy", features.getvalue())


class Npz(_FilesByImage):
    """Writer of a file an image, as bottom-up-attention.pytorch writes it: `x` is (N, 2048)."""

    flags = True
    halves = True
    last = ".npz"
    form = "npz"
    transposed = False

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_paths(self.form, sources, os.pathconf(folder, "PC_NAME_MAX") - len(".npz"))

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        arrays = items.attention_npz(
            image_id, self.regions(source, image_id, group), half=self.options.half, transposed=self.transposed
        )
        self._put(f"{image_id}.npz", pickles.npz(arrays))


class OpenVqa(Npz):
    """Writer of the same for openvqa and mcan, which take `x` as (2048, N), and transpose it."""

    form = "npz-openvqa"
    transposed = True
