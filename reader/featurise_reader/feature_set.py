"""A feature set by what its catalogue says: ids, and an image's features by its id."""

import bisect
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from h5py import h5d, h5g, h5s
from numpy.typing import NDArray

from featurise_reader import store
from featurise_reader.errors import NotFound, ReaderError
from featurise_reader.locations import normalised

OPEN_FILES = 32
FIELDS = (
    *("features", "boxes", "obj_id", "obj_conf", "num_boxes", "img_w", "img_h"),
    *("attr_id", "attr_conf", "cls_prob", "box_ids", "box_flags"),
)


@dataclass(frozen=True)
class Image:
    """What a backbone found in one image: N boxes in the order in which the reference returns them."""

    image_id: str
    features: NDArray[np.float32]
    """(N, 2048), not normalised."""
    boxes: NDArray[np.float32]
    """(N, 4): x1, y1, x2, y2 in absolute pixels of the original image, x to the right and y down."""
    obj_id: NDArray[np.int64]
    """(N): class of each box, of the 1600 of Visual Genome; the backbone's README tells of a background class."""
    obj_conf: NDArray[np.float32]
    """(N): its probability, 0 to 1."""
    num_boxes: int
    """How many of the N rows are detections."""
    img_w: int
    """Pixels."""
    img_h: int
    """Pixels."""
    provenance: Mapping[str, Any]
    """The image (`key`, `etag`, `sha256`, `batch`), its file, and how that was made (weights, precision, box rule)."""
    attr_id: NDArray[np.int64] | None = None
    """(N): attribute class, where the backbone has attributes."""
    attr_conf: NDArray[np.float32] | None = None
    """(N): its probability."""
    cls_prob: NDArray[np.float32] | None = None
    """(N, classes): all probabilities, where they were kept."""
    box_ids: NDArray[np.bytes_] | None = None
    """(N): ids of the boxes in UTF-8, where they were given by a user and not found."""
    box_flags: NDArray[np.uint8] | None = None
    """(N): of given boxes, 0, or why a box is none: a sum of 1 (outside the image), 2 (no area), 4 (corners swapped)
    and 8 (not finite). Its features are NaN then, and its class -1."""

    @property
    def sound(self) -> NDArray[np.bool_]:
        """(N): whether a row has features; all have but those of given boxes that are none."""
        return np.ones(len(self.boxes), bool) if self.box_flags is None else self.box_flags == 0

    def locations(self, numbers: int = 5) -> NDArray[np.float32]:
        """Boxes as shares of the image's size: (N, 5) or (N, 7); see `normalised`."""
        return normalised(self.boxes, self.img_w, self.img_h, numbers)


class FeatureSet(Mapping[str, Image]):
    """The live images of one version of a feature set, by id. May be handed to other processes."""

    def __init__(self, folder: str, version: Mapping[str, Any], table: pa.Table, cache: Path | None) -> None:
        self.folder, self._about, self._table, self._cache = folder, version, table, cache
        self._order: NDArray[np.int64] | None = None
        self._files: OrderedDict[str, h5py.File] = OrderedDict()
        self._made: dict[str, dict[str, Any]] = {}
        self._process = os.getpid()

    @property
    def version(self) -> int:
        """The catalogue's version: `fs.as_of(version)` reads the same for ever. Name it with what you train."""
        return int(self._about["version"])

    @property
    def synthetic(self) -> bool:
        """Whether the weights are made up: then the features mean nothing."""
        return bool(self._about["synthetic"])

    @property
    def name(self) -> str:
        """Dataset, backbone and revision."""
        return str(self._about["feature_set"])

    @property
    def ids(self) -> list[str]:
        """The images' ids: in the order of `select`, else of the ids."""
        column = self._table.column("image_id")
        return list((column if self._order is None else column.take(pa.array(self._order))).to_pylist())

    def __len__(self) -> int:
        return self._table.num_rows if self._order is None else len(self._order)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._find(image_id) is not None

    def __getitem__(self, image_id: str) -> Image:
        """An image by its id.

        Raises NotFound when it has no features in this version, or ReaderError.
        """
        place = self._find(image_id)
        if place is None:
            raise NotFound(
                f"{self.name}, version {self.version}, has no image {image_id!r}; ids look like {self._some()}"
            )
        return self.at(place)

    def select(self, wanted: Sequence[str] | str | os.PathLike[str]) -> "FeatureSet":
        """Only these ids, in this order; of a file, the ids on its lines.

        Raises NotFound naming ids that are not there.
        """
        if isinstance(wanted, str | os.PathLike):
            wanted = [line for line in Path(wanted).read_text().splitlines() if line.strip()]
        places = [self._find(image_id) for image_id in wanted]
        missing = [image_id for image_id, place in zip(wanted, places, strict=True) if place is None]
        if missing:
            raise NotFound(
                f"{len(missing):,} of {len(wanted):,} ids have no image in {self.name}, version {self.version}: "
                f"{', '.join(map(repr, missing[:5]))}; ids look like {self._some()}"
            )
        chosen = FeatureSet(self.folder, self._about, self._table, self._cache)
        chosen._order = np.array(places, np.int64)
        return chosen

    def as_of(self, version: int) -> "FeatureSet":
        """The feature set as it was at a version of its catalogue.

        Raises NotFound when there is no such version.
        """
        return _load(self.folder, version, self._cache)

    def places(self) -> NDArray[np.int64]:
        """The rows of the catalogue in this feature set's order, for `at` and `by_file`."""
        return np.arange(len(self)) if self._order is None else self._order

    def by_file(self) -> dict[str, NDArray[np.int64]]:
        """The rows that lie in each published file, files in order: to stream one file after another."""
        places = self.places()
        files = self._table.column("file").take(pa.array(places)).to_pylist()
        found: dict[str, list[int]] = {}
        for place, file in sorted(zip(places.tolist(), files, strict=True), key=lambda one: one[1]):
            found.setdefault(file, []).append(place)
        return {file: np.array(rows, np.int64) for file, rows in found.items()}

    def at(self, place: int, fields: Sequence[str] = FIELDS, file: h5py.File | None = None) -> Image:
        """The image of a row of the catalogue; `fields` are read, others have no rows; `file` is its open file.

        Raises ReaderError when its file is not there or cannot be read.
        """
        row = {name: self._table.column(name)[place].as_py() for name in self._table.column_names}
        try:
            opened = self._file(row["file"]) if file is None else file
            found = _arrays(opened, row["group"], fields)
            if "features" in found:  # which may be stored as float16
                found["features"] = found["features"].astype(np.float32, copy=False)
            provenance = {**row, **self._attributes(row["file"], opened)}
        except (OSError, KeyError, RuntimeError) as error:
            raise ReaderError(
                f"{store.join(self.folder, row['file'])}: {row['image_id']!r} cannot be read: {error}"
            ) from error
        arrays: dict[str, Any] = {name: value for name, value in found.items() if getattr(value, "shape", ()) != ()}
        arrays |= {name: int(found.get(name, 0)) for name in ("num_boxes", "img_w", "img_h")}
        nothing = {"features": _NO_FEATURES, "boxes": _NO_BOXES, "obj_id": _NO_IDS, "obj_conf": _NO_CONFS}
        return Image(image_id=row["image_id"], provenance=provenance, **{**nothing, **arrays})

    def _attributes(self, file: str, opened: h5py.File) -> Mapping[str, Any]:
        """How a published file was made, which is the same for all of its images."""
        if file not in self._made:
            self._made[file] = {name: _plain(value) for name, value in opened.attrs.items()}
        return self._made[file]

    def path_of(self, file: str) -> Path:
        """A published file on this disk: where it lies, or its copy in the cache, which is made and checked if need be.

        Raises ReaderError without a cache, when an object is another than the catalogue says, or the store fails.
        """
        where = file if file.startswith("s3://") else store.join(self.folder, file)
        if not where.startswith("s3://"):
            return Path(where)
        if self._cache is None:
            raise ReaderError(f"{where} is to be copied, and there is no cache; open the feature set with cache=…")
        local = self._cache / where.removeprefix("s3://")
        if not local.exists():
            store.download(where, local)
            self._check(file, local)
        return local

    def copied_to(self, folder: Path) -> "FeatureSet":
        """The same with its cache in another folder, where it has none."""
        if self._cache is not None:
            return self
        other = FeatureSet(self.folder, self._about, self._table, folder)
        other._order = self._order
        return other

    def show(self, image_id: str, image: Any = None, classes: Sequence[str] | None = None, most: int = 10) -> Any:
        """An image with its boxes and their classes drawn in, as a `PIL.Image`; see `drawing.show`."""
        from featurise_reader import drawing

        return drawing.show(self[image_id], image, classes, most, self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _check(self, file: str, local: Path) -> None:
        rows = self._table.filter(compute.equal(self._table.column("file"), file))
        expected = rows.column("file_sha256")[0].as_py()
        with local.open("rb") as copied:
            found = hashlib.file_digest(copied, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else expected
        if found != expected:
            local.unlink()
            raise ReaderError(f"{file} has SHA-256 {found}, the catalogue says {expected}: it was altered")

    def _find(self, image_id: str) -> int | None:
        column = self._table.column("image_id")
        place = bisect.bisect_left(range(len(column)), image_id, key=lambda at: column[at].as_py())
        if place == len(column) or column[place].as_py() != image_id:
            return None
        return place if self._order is None or (self._order == place).any() else None

    def _some(self) -> str:
        return repr(self.ids[0]) if len(self) else "none: it is empty"

    def _file(self, file: str) -> h5py.File:
        if self._process != os.getpid():  # open files do not survive a fork
            self._files, self._process = OrderedDict(), os.getpid()
        if file not in self._files:
            if len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            where = file if file.startswith("s3://") else store.join(self.folder, file)
            by_pieces = where.startswith("s3://") and self._cache is None
            source = io.BufferedReader(store.Ranges(where), store.BLOCK) if by_pieces else self.path_of(file)
            self._files[file] = h5py.File(source, "r")
        self._files.move_to_end(file)
        return self._files[file]


_NO_FEATURES, _NO_BOXES = np.zeros((0, 2048), np.float32), np.zeros((0, 4), np.float32)
_NO_IDS, _NO_CONFS = np.zeros(0, np.int64), np.zeros(0, np.float32)


def open_(uri: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None) -> FeatureSet:
    """A feature set by its folder: `s3://bucket/features/<dataset>/<backbone>`, with the revision if there are several.

    `cache` is a folder for copies of published files, which are then fetched whole and once; without it, an image's
    part of a file is fetched when it is asked for. A local folder that is a copy of the bucket's needs none.
    Raises NotFound when nothing is published there, ReaderError when several revisions are.
    """
    folder = str(uri).rstrip("/")
    place = None if cache is None else Path(cache)
    try:
        return _load(folder, None, place)
    except NotFound:
        below = store.folders(folder)
        revisions = [name for name in below if "catalogue.json" in store.names(store.join(folder, name))]
    if not revisions:
        raise NotFound(
            f"{folder} holds no catalogue of a feature set; expected s3://bucket/features/<dataset>/<backbone>"
            + (f", below it lie {', '.join(below[:5])}" if below else "")
        )
    if len(revisions) > 1:
        raise ReaderError(
            f"{folder} holds {len(revisions)} revisions: add one of {', '.join(revisions)} to the address"
        )
    return _load(store.join(folder, revisions[0]), None, place)


def _load(folder: str, version: int | None, cache: Path | None) -> FeatureSet:
    name = (
        f"catalogue/{version:08d}.json" if version else json.loads(store.read(f"{folder}/catalogue.json"))["catalogue"]
    )
    about = json.loads(store.read(store.join(folder, name)))
    segments = [
        _table(store.read(store.join(folder, segment["name"]))) for segment in about["segments"] if segment["images"]
    ]
    if not segments:
        nothing = pa.table({name: pa.array([], pa.string()) for name in ("image_id", "file")})
        return FeatureSet(folder, about, nothing, cache)
    table = pa.concat_tables(segments).sort_by([("image_id", "ascending"), ("key", "ascending")]).combine_chunks()
    ids = table.column("image_id")
    first = np.ones(len(ids), bool)
    first[1:] = np.asarray(compute.not_equal(ids[1:], ids[:-1]))  # copies of an image under other keys have one id
    return FeatureSet(folder, about, table.filter(pa.array(first)), cache)


def _table(data: bytes) -> pa.Table:
    # By this thread alone: pyarrow's hold a Python object a little longer than their caller waits, and a process that
    # ends meanwhile is aborted (pyarrow 26.0.1 on Python 3.13).
    with parquet.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(use_threads=False)


def _arrays(file: h5py.File, name: str, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some of an image's arrays, by HDF5's own calls: h5py's convenient objects take several times as long."""
    group = h5g.open(file.id, name.encode())
    there = set(group)
    found = {}
    for field in fields:
        if field.encode() in there:
            dataset = h5d.open(group, field.encode())
            found[field] = np.empty(dataset.shape, dataset.dtype)
            dataset.read(h5s.ALL, h5s.ALL, found[field])
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
