"""LMDB, for VOLTA and IGLUE and for mmf: an entry for each image, and `keys`, the pickled list of all of them.

`keys` is written with every commit, so that what is there can be read at any time. The map starts at what the images
need and grows, so that no file system has to hold a terabyte of holes.
"""

import pickle
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import lmdb

from extractor.core.contract import Regions
from featurise.export import items, mmf_names, pickles
from featurise.export.source import ExportFailed, Source

BATCH = 128
"""Images in one transaction: what is repeated when the map was too small."""
MIB = 1024 * 1024
KEY_BYTES = 511
"""The longest key that LMDB holds."""


class _Lightning:
    def __init__(
        self, folder: Path, sources: Sequence[Source], share: float, item: Callable[[str, Regions], dict[str, Any]]
    ) -> None:
        _check_keys(sources)
        self.target = folder
        self._size = int(share * sum(source.bytes for source in sources)) + 64 * MIB
        self._item = item
        self._pending: list[tuple[bytes, bytes]] = []

    def holds(self, source: Source) -> bool:
        return all(image_id.encode() in self._keys for image_id in source.ids)

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        key = image_id.encode()
        self._pending.append((key, pickles.dumps(self._item(image_id, source.regions(group)))))
        self._keys[key] = None
        if len(self._pending) >= BATCH:
            self._write()

    def commit(self, source: Source) -> int:
        del source
        self._pending.append((b"keys", pickle.dumps(list(self._keys), protocol=3)))
        self._write()
        self._environment.sync(True)
        return 0

    def close(self) -> None:
        self._environment.close()

    def release(self) -> None:
        if "_environment" in self.__dict__:
            self._environment.close()

    @cached_property
    def _environment(self) -> lmdb.Environment:
        return lmdb.open(str(self.target), map_size=self._size, subdir=True, meminit=False)

    @cached_property
    def _keys(self) -> dict[bytes, None]:
        with self._environment.begin() as transaction:
            return dict.fromkeys(pickle.loads(transaction.get(b"keys") or pickle.dumps([])))  # noqa: S301

    def _write(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value)
                self._pending.clear()
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])


class Volta(_Lightning):
    """Writer of the folder `<dataset>_feat.lmdb`."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        del offset
        # Base64 takes a third more than the arrays.
        super().__init__(folder / f"{dataset}_feat.lmdb", sources, 1.5, items.volta)


class Mmf(_Lightning):
    """Writer of the folder `<dataset>.lmdb`."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        del offset
        mmf_names.check_lmdb(sources)
        super().__init__(folder / f"{dataset}.lmdb", sources, 1.2, items.mmf_lmdb)


def _check_keys(sources: Sequence[Source]) -> None:
    for source in sources:
        for image_id in source.ids:
            if len(image_id.encode()) > KEY_BYTES or image_id == "keys":
                raise ExportFailed(
                    f"image id {image_id[:80]!r} cannot be a key of an LMDB (1 to {KEY_BYTES} bytes, not `keys`); "
                    "export as h5, or declare image_ids that are shorter"
                )
