"""LMDB, for VOLTA and IGLUE, mmf, ViLBERT-MT and UNITER: an entry for each image, and one that lists all of them.

The list is written with every commit, so that what is there can be read at any time. The map starts at what the images
need and grows, so that no file system has to hold a terabyte of holes.
"""

import json
import pickle
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import h5py
import lmdb

from extractor.core.contract import Regions
from featurise.export import items, mmf_names, pickles
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source
from featurise.export.writer import Writer

BATCH = 64
"""Images in one transaction: what is repeated when the map was too small."""
MIB = 1024 * 1024
KEY_BYTES = 511
"""The longest key that LMDB holds."""


class _Lightning(Writer):
    share: ClassVar[float]
    """What an item takes of the published file's bytes."""
    suffix: ClassVar[str]
    keys_name: ClassVar[bytes] = b"keys"

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        _check_keys(sources)
        self._size = int(self.share * sum(source.bytes for source in sources)) + 64 * MIB
        self._pending: list[tuple[bytes, bytes]] = []
        # One transaction is written while the images of the next one are read and encoded.
        self._beside = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (f"{dataset}{cls.suffix}",)

    @abstractmethod
    def item(self, source: Source, image_id: str, found: Regions) -> bytes:
        """An image as this format's readers want it."""

    def key(self, image_id: str) -> bytes:
        """What the readers look an image up by."""
        return image_id.encode()

    def keys(self) -> tuple[bytes, bytes]:
        """The entry that lists all keys."""
        return self.keys_name, pickle.dumps(list(self._keys), protocol=3)

    def listed(self, value: bytes) -> list[bytes]:
        """The keys that such an entry lists."""
        return list(pickle.loads(value))  # noqa: S301

    def holds(self, source: Source) -> bool:
        return all(self.key(image_id) in self._keys for image_id in source.ids)

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        key = self.key(image_id)
        self._pending.append((key, self.item(source, image_id, self.regions(source, image_id, group))))
        self._keys[key] = None
        if len(self._pending) >= BATCH:
            self._write()

    def commit(self, source: Source) -> int:
        del source
        self._pending.append(self.keys())
        self._write()
        self._wait()
        self._environment.sync(True)
        return 0

    def close(self) -> None:
        self.release()

    def release(self) -> None:
        self._beside.shutdown()
        if "_environment" in self.__dict__:
            self._environment.close()

    @cached_property
    def _environment(self) -> lmdb.Environment:
        where = self.folder / f"{self.dataset}{self.suffix}"
        where.mkdir(parents=True, exist_ok=True)
        # A crash of the machine may take back the last transaction, and the journal counts on none before `commit`.
        return lmdb.open(str(where), map_size=self._size, subdir=True, meminit=False, metasync=False)

    @cached_property
    def _keys(self) -> dict[bytes, None]:
        with self._environment.begin() as transaction:
            value = transaction.get(self.keys_name)
        return dict.fromkeys([] if value is None else self.listed(value))

    def _write(self) -> None:
        self._wait()
        self._written = self._beside.submit(_put, self._environment, self._pending)
        self._pending = []

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None


def _put(environment: lmdb.Environment, items: Sequence[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in items:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


class Volta(_Lightning):
    """Writer of the folder `<dataset>_feat.lmdb`."""

    flags = True
    share = 1.5
    """Base64 takes a third more than the arrays."""
    suffix = "_feat.lmdb"

    def item(self, source: Source, image_id: str, found: Regions) -> bytes:
        del source
        return pickles.dumps(items.volta(image_id, found))


class Mmf(_Lightning):
    """Writer of the folder `<dataset>.lmdb`."""

    flags = True
    share = 1.2
    suffix = ".lmdb"

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        mmf_names.check_lmdb(sources)

    def item(self, source: Source, image_id: str, found: Regions) -> bytes:
        del source
        return pickles.dumps(items.mmf_lmdb(image_id, found))


class Vilbert(_Lightning):
    """Writer of the folder `<dataset>.lmdb`, as ViLBERT-MT (12-in-1) reads it."""

    share = 1.5
    suffix = ".lmdb"

    def item(self, source: Source, image_id: str, found: Regions) -> bytes:
        del source
        return pickles.dumps(items.vilbert(image_id, found))


class Uniter(_Lightning):
    """Writer of the folder `<dataset>/all_compressed`, which UNITER opens with `compressed_db`, for any of its limits.

    An image's name is `<id>.npz`, as UNITER's text databases have it in `img_fname`.
    """

    share = 1.1
    suffix = "/all_compressed"
    keys_name = b"__keys__"
    halves = True

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (dataset,)

    def key(self, image_id: str) -> bytes:
        return f"{image_id}.npz".encode()

    def keys(self) -> tuple[bytes, bytes]:
        return self.keys_name, json.dumps([key.decode() for key in self._keys]).encode()

    def listed(self, value: bytes) -> list[bytes]:
        return [name.encode() for name in json.loads(value)]

    def item(self, source: Source, image_id: str, found: Regions) -> bytes:
        del source, image_id
        return items.uniter(found, half=self.options.half)


def _check_keys(sources: Sequence[Source]) -> None:
    for source in sources:
        for image_id in source.ids:
            if len(f"{image_id}.npz".encode()) > KEY_BYTES or image_id == "keys":
                raise ExportFailed(
                    f"image id {image_id[:80]!r} cannot be a key of an LMDB (1 to {KEY_BYTES} bytes, not `keys`); "
                    "export as h5, or declare image_ids that are shorter"
                )
