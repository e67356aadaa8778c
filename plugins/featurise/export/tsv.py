"""Tables with a line for each image, tab-separated, arrays in base64, no header: LXMERT's, caffe's and Oscar's."""

import json
import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

import h5py
import numpy as np
import pybase64
from numpy.typing import NDArray

from extractor.core import contract, vocabulary, weights
from extractor.core.backbone_specs import specs
from extractor.core.contract import Regions
from featurise.export import items, writer
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source
from featurise.export.writer import Extends, Writer

Array = NDArray[np.float32] | NDArray[np.int64]
UNREADABLE = re.compile('["\t\r\n]')
"""What Python's `csv`, as LXMERT uses it, takes for the end of a field or for its quotes."""


class Tsv(Writer):
    """Writer of `<dataset>_obj.tsv`. Boxes are clipped: readers assert that they lie in the image."""

    extends = Extends.HIDDEN
    ordered = True
    form: ClassVar[str]

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_text(self.form, sources, UNREADABLE, "a tab, a line break or a quotation mark")

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (f"{dataset}_obj.tsv",)

    @abstractmethod
    def fields(self, source: Source, image_id: str, found: Regions) -> list[bytes]:
        """The columns of an image's line."""

    def holds(self, source: Source) -> bool:
        del source
        return self._table.exists() and self._table.stat().st_size >= self.offset

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = self.regions(source, image_id, group)
        line = b"\t".join(self.fields(source, image_id, found)) + b"\n"
        self._file.write(line)
        self.beside(source, image_id, found, group.file)

    def beside(self, source: Source, image_id: str, found: Regions, file: h5py.File) -> None:
        """Write what a format holds of an image beside its line."""

    def commit(self, source: Source) -> int:
        del source
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def release(self) -> None:
        if "_file" in self.__dict__:
            with suppress(OSError):  # what is still to be written does not matter, and may find no room
                self._file.close()

    @property
    def _table(self) -> Path:
        return self.folder / f"{self.dataset}_obj.tsv"

    @cached_property
    def _file(self) -> BinaryIO:
        """The file, without what was not committed; opened late, so that an export that is refused leaves none."""
        file = self._table.open("r+b" if self._table.exists() else "w+b")
        file.truncate(self.offset)
        file.seek(self.offset)
        return file


class Lxmert(Tsv):
    """Writer of LXMERT's ten columns."""

    attributes = True
    form = "tsv-lxmert"

    def fields(self, source: Source, image_id: str, found: Regions) -> list[bytes]:
        if found.attr_id is None or found.attr_conf is None:
            having = ", ".join(name for name, spec in specs().items() if spec.attributes)
            raise ExportFailed(
                f"{source.uri}: tsv-lxmert holds attributes of every box, this backbone has none; export one that has "
                f"some ({having or 'none is installed'}), or in another format"
            )
        of_objects: list[Array] = [found.obj_id, found.obj_conf, found.attr_id, found.attr_conf]
        return [
            *(str(value).encode() for value in (image_id, found.img_h, found.img_w)),
            *map(_base64, of_objects),
            str(len(found.features)).encode(),
            _base64(items.clipped(found)),
            _base64(found.features),
        ]


class Caffe(Tsv):
    """Writer of bottom-up-attention's six columns; its readers (self-critical, VL-BERT) take `int(image_id)`."""

    form = "tsv-caffe"
    numbers = True

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_numbers(self.form, sources)

    def fields(self, source: Source, image_id: str, found: Regions) -> list[bytes]:
        del source
        facts = (image_id, found.img_w, found.img_h, len(found.features))
        return [*(str(fact).encode() for fact in facts), _base64(items.clipped(found)), _base64(found.features)]


class Oscar(Tsv):
    """Writer of `<dataset>.features.tsv` and `<dataset>.label.tsv` (key, JSON), each with the offsets of its lines.

    The features are Oscar's 2054: the backbone's, and x1/w, y1/h, x2/w, y2/h, box width/w, box height/h. A label is
    the list of an image's boxes, whose classes' names Oscar reads as text beside the caption.
    """

    form = "tsv-oscar"

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        self._names: dict[str, Sequence[str]] = {}

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return tuple(f"{dataset}.{what}.{kind}" for what in ("features", "label") for kind in ("tsv", "lineidx"))

    def fields(self, source: Source, image_id: str, found: Regions) -> list[bytes]:
        del source
        wide = np.concatenate([found.features, items.shares(found)], axis=1, dtype=np.float32)
        value = {"num_boxes": len(found.features), "features": _base64(wide).decode()}
        return [image_id.encode(), json.dumps(value).encode()]

    def holds(self, source: Source) -> bool:
        return super().holds(source) and self._label_table.exists()

    def beside(self, source: Source, image_id: str, found: Regions, file: h5py.File) -> None:
        if source.uri not in self._names:
            self._names[source.uri] = _class_names(source, file)
        names, boxes = self._names[source.uri], items.clipped(found).tolist()
        label = [
            {"class": names[number], "conf": confidence, "rect": box}
            for number, confidence, box in zip(found.obj_id.tolist(), found.obj_conf.tolist(), boxes, strict=True)
        ]
        self._labels.write(f"{image_id}\t{json.dumps(label)}\n".encode())

    def commit(self, source: Source) -> int:
        self._labels.flush()
        os.fsync(self._labels.fileno())
        return super().commit(source)

    def close(self) -> None:
        super().close()
        self._labels.close()
        for table in (self._table, self._label_table):
            _index(table)

    def release(self) -> None:
        super().release()
        if "_labels" in self.__dict__:
            with suppress(OSError):
                self._labels.close()

    @property
    def _table(self) -> Path:
        return self.folder / f"{self.dataset}.features.tsv"

    @property
    def _label_table(self) -> Path:
        return self.folder / f"{self.dataset}.label.tsv"

    @cached_property
    def _labels(self) -> BinaryIO:
        """The labels, as many lines as were committed of the features."""
        file = self._label_table.open("r+b" if self._label_table.exists() else "w+b")
        for _ in range(_lines(self._table, self.offset)):
            file.readline()
        file.truncate(file.tell())
        return file


def _class_names(source: Source, file: h5py.File) -> Sequence[str]:
    made = contract.read_provenance(file)
    found = weights.names(made.backbone, made.weights_uri, vocabulary.OBJECTS, background=made.background)
    if found is None:
        raise ExportFailed(
            f"{source.uri}: tsv-oscar holds the names of classes, and {made.backbone} has none; put them into "
            f"{vocabulary.OBJECTS} in the weights' folder, or export in another format"
        )
    return found


def _lines(table: Path, size: int) -> int:
    """Lines in the first `size` bytes of a table."""
    if not size:
        return 0
    found = 0
    with table.open("rb") as file:
        while piece := file.read(min(size, 1 << 20)):
            found, size = found + piece.count(b"\n"), size - len(piece)
    return found


def _index(table: Path) -> None:
    """Write the offset of each line of a table into the file beside it."""
    index, offset = table.with_suffix(".lineidx"), 0
    partial = index.with_name(f".{index.name}.partial")
    with table.open("rb") as lines, partial.open("w") as file:
        for line in lines:
            file.write(f"{offset}\n")
            offset += len(line)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(index)


def _base64(array: Array) -> bytes:
    return pybase64.b64encode(array.tobytes())
