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
            raise ExportFailed(
                f"{source.uri}: tsv-lxmert holds attributes of every box, this backbone has none; export resnet101, "
                "or in another format"
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
    """Writer of `<dataset>.features.tsv` (key, JSON) and `.features.lineidx`, the offset of each of its lines.

    The features are Oscar's 2054: the backbone's, and x1/w, y1/h, x2/w, y2/h, box width/w, box height/h.
    """

    form = "tsv-oscar"

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (f"{dataset}.features.tsv", f"{dataset}.features.lineidx")

    def fields(self, source: Source, image_id: str, found: Regions) -> list[bytes]:
        del source
        wide = np.concatenate([found.features, items.shares(found)], axis=1, dtype=np.float32)
        value = {"num_boxes": len(found.features), "features": _base64(wide).decode()}
        return [image_id.encode(), json.dumps(value).encode()]

    def close(self) -> None:
        super().close()
        index = self.folder / f"{self.dataset}.features.lineidx"
        partial, offset = index.with_name(f".{index.name}.partial"), 0
        with self._table.open("rb") as lines, partial.open("w") as file:
            for line in lines:
                file.write(f"{offset}\n")
                offset += len(line)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(index)

    @property
    def _table(self) -> Path:
        return self.folder / f"{self.dataset}.features.tsv"


def _base64(array: Array) -> bytes:
    return pybase64.b64encode(array.tobytes())
