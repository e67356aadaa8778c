"""LXMERT's TSV: no header, tab-separated, arrays in base64, a line for each image."""

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from extractor.core.contract import Regions
from featurise.export import items
from featurise.export.source import ExportFailed, Source

UNREADABLE = frozenset('"\t\r\n')
"""What Python's `csv`, as LXMERT uses it, takes for the end of a field or for its quotes."""


class Lxmert:
    """Writer of `<dataset>_obj.tsv`. Boxes are clipped: the reader asserts that they lie in the image."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int) -> None:
        _check_ids(sources)
        self.target, self._offset = folder / f"{dataset}_obj.tsv", offset

    def holds(self, source: Source) -> bool:
        del source
        return self.target.exists() and self.target.stat().st_size >= self._offset

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = source.regions(group)
        if found.attr_id is None or found.attr_conf is None:
            raise ExportFailed(
                f"{source.uri}: tsv-lxmert holds attributes of every box, this backbone has none; export resnet101, "
                "or in another format"
            )
        if found.box_flags is not None and found.box_flags.any():
            raise ExportFailed(
                f"{source.uri}: {image_id}: {np.count_nonzero(found.box_flags)} of its given boxes are none, and "
                "tsv-lxmert's reader asserts that boxes lie in their image; export in another format, or take them out "
                "of the file of boxes"
            )
        self._file.write(_line(image_id, found, found.attr_id, found.attr_conf))

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

    @cached_property
    def _file(self) -> BinaryIO:
        """The file, without what was not committed; opened late, so that an export that is refused leaves none."""
        file = self.target.open("r+b" if self.target.exists() else "w+b")
        file.truncate(self._offset)
        file.seek(self._offset)
        return file


def _check_ids(sources: Sequence[Source]) -> None:
    for source in sources:
        for image_id in source.ids:
            if not UNREADABLE.isdisjoint(image_id):
                raise ExportFailed(
                    f"image id {image_id!r} holds a tab, a line break or a quotation mark, with which tsv-lxmert's "
                    "reader would take several images for one; export in another format, or rename the image"
                )


def _line(image_id: str, found: Regions, attr_id: NDArray[np.int64], attr_conf: NDArray[np.float32]) -> bytes:
    arrays = (found.obj_id, found.obj_conf, attr_id, attr_conf)
    fields = [image_id.encode(), str(found.img_h).encode(), str(found.img_w).encode()]
    fields += [base64.b64encode(array.tobytes()) for array in arrays]
    fields += [str(len(found.features)).encode()]
    fields += [base64.b64encode(array.tobytes()) for array in (items.clipped(found), found.features)]
    return b"\t".join(fields) + b"\n"
