"""mmf's files: `<id>.npy` and `<id>_info.npy` for each image."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from featurise.export import items, mmf_names, pickles
from featurise.export.source import ExportFailed, Source

INFO = "_info.npy"


class MmfFiles:
    """Writer of two files an image. The reader asks for the features, so they come last: both are there, or neither."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        del offset
        mmf_names.check_files(sources)
        _check_lengths(sources, os.pathconf(folder, "PC_NAME_MAX") - len(INFO))
        self.target = folder / dataset

    def holds(self, source: Source) -> bool:
        return all((self.target / f"{image_id}.npy").exists() for image_id in source.ids)

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = source.regions(group)
        features = io.BytesIO()
        np.save(features, found.features)
        self.target.mkdir(exist_ok=True)
        self._put(f"{image_id}{INFO}", pickles.npy(items.mmf_info(found)))
        self._put(f"{image_id}.npy", features.getvalue())

    def commit(self, source: Source) -> int:
        del source
        os.sync()
        return 0

    def close(self) -> None:
        """Nothing is left to do."""

    def release(self) -> None:
        """No file is kept open."""

    def _put(self, name: str, data: bytes) -> None:
        partial = self.target / ".partial"
        partial.write_bytes(data)
        partial.replace(self.target / name)


def _check_lengths(sources: Sequence[Source], most: int) -> None:
    for source in sources:
        for image_id in source.ids:
            if len(image_id.encode()) > most:
                raise ExportFailed(
                    f"image id {image_id[:80]!r}… is {len(image_id.encode())} bytes long, and the names of npy-mmf's "
                    f"files have room for {most}; export in another format, or rename the image"
                )
