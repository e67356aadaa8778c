"""WebDataset's tars: for each image `<key>.json`, `<key>.features.npy` and `<key>.boxes.npy`, one after another.

Every sample has every file and every field: `datasets` makes its columns from the first five, and drops what only later
ones have. A key ends at its first dot, so dots of an id are percent-encoded; the id itself is in the JSON.
"""

import io
import json
import math
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featurise.export import items, writer
from featurise.export.pieces import Pieces
from featurise.export.selection import Options
from featurise.export.source import Source


class Tars(Pieces):
    """Writer of `<dataset>/<batch>-<shard>.tar`."""

    suffix = ".tar"
    halves = True
    flags = True

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_paths("webdataset", sources, 10_000)
        self._tar: tarfile.TarFile | None = None

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = self.regions(source, image_id, group)
        if self._tar is None:
            self._tar = tarfile.open(self.partial, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 # closed by finish
        facts: dict[str, Any] = {"image_id": image_id, "img_w": found.img_w, "img_h": found.img_h}
        facts |= {"num_boxes": found.num_boxes, "obj_id": found.obj_id.tolist(), "obj_conf": _or_null(found.obj_conf)}
        facts["attr_id"] = None if found.attr_id is None else found.attr_id.tolist()
        facts["attr_conf"] = None if found.attr_conf is None else _or_null(found.attr_conf)
        if found.box_ids is not None and found.box_flags is not None:
            facts |= {"box_ids": items.texts(found.box_ids), "box_flags": found.box_flags.tolist()}
        key = image_id.replace("%", "%25").replace(".", "%2E")
        features = found.features.astype(np.float16) if self.options.half else found.features
        self._put(f"{key}.json", json.dumps(facts).encode())
        self._put(f"{key}.features.npy", _npy(features))
        self._put(f"{key}.boxes.npy", _npy(found.boxes))

    def finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def release(self) -> None:
        if self._tar is not None and self._tar.fileobj is not None:
            with suppress(OSError):  # what is still to be written does not matter, and may find no room
                self._tar.fileobj.close()

    def _put(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        if self._tar is not None:
            self._tar.addfile(member, io.BytesIO(data))


def _or_null(values: NDArray[np.float32]) -> list[float | None]:
    """Numbers as JSON has them, which knows no NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
