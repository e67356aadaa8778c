"""Files for each image: mmf's `<id>.npy` and `<id>_info.npy`, and bottom-up-attention.pytorch's `<id>.npz`."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from featurise.export import items, mmf_names, pickles, writer
from featurise.export.selection import Options
from featurise.export.source import Source
from featurise.export.writer import Writer

INFO = "_info.npy"


class MmfFiles(Writer):
    """Writer of two files an image. The reader asks for the features, so they come last: both are there, or neither.

    An id that is a path is one here, too: mmf joins folder and name.
    """

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        mmf_names.check_files(sources)
        writer.check_paths("npy-mmf", sources, os.pathconf(folder, "PC_NAME_MAX") - len(INFO))

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (dataset,)

    def holds(self, source: Source) -> bool:
        return all((self._files / f"{image_id}.npy").exists() for image_id in source.ids)

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = source.regions(group)
        features = io.BytesIO()
        np.save(features, found.features)
        (self._files / image_id).parent.mkdir(parents=True, exist_ok=True)
        self._put(f"{image_id}{INFO}", pickles.npy(items.mmf_info(found)))
        self._put(f"{image_id}.npy", features.getvalue())

    def commit(self, source: Source) -> int:
        del source
        os.sync()
        return 0

    @property
    def _files(self) -> Path:
        return self.folder / self.dataset

    def _put(self, name: str, data: bytes) -> None:
        partial = self._files / ".partial"
        partial.write_bytes(data)
        partial.replace(self._files / name)


class Npz(Writer):
    """Writer of a file an image, as bottom-up-attention.pytorch writes it: `x` is (N, 2048)."""

    halves = True
    form = "npz"
    transposed = False

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_paths(self.form, sources, os.pathconf(folder, "PC_NAME_MAX") - len(".npz"))

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (dataset,)

    def holds(self, source: Source) -> bool:
        return all((self._files / f"{image_id}.npz").exists() for image_id in source.ids)

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        arrays = items.attention_npz(
            image_id, source.regions(group), half=self.options.half, transposed=self.transposed
        )
        target, partial = self._files / f"{image_id}.npz", self._files / ".partial.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(pickles.npz(arrays))
        partial.replace(target)

    def commit(self, source: Source) -> int:
        del source
        os.sync()
        return 0

    @property
    def _files(self) -> Path:
        return self.folder / self.dataset


class OpenVqa(Npz):
    """Writer of the same for openvqa and mcan, which take `x` as (2048, N), and transpose it."""

    form = "npz-openvqa"
    transposed = True
