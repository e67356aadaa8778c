"""Parquet that Hugging Face's `datasets` loads: a row for each image, few of them in a row group, for random access.

No dictionary: pyarrow keeps one in groups as small as these, and files of floats grow by half. No compression: floats
hardly have any, and it would have to be undone for each row.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featurise.export import items
from featurise.export.pieces import Pieces
from featurise.export.selection import Options
from featurise.export.source import Source

ROWS = 8
"""Images in a row group: what one random access reads."""


class Parquet(Pieces):
    """Writer of `<dataset>/<batch>-<shard>.parquet`."""

    suffix = ".parquet"
    halves = True
    flags = True

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = self.regions(source, image_id, group)
        kind = np.float16 if self.options.half else np.float32
        row = {"image_id": image_id, "img_w": found.img_w, "img_h": found.img_h, "num_boxes": found.num_boxes}
        arrays = {"features": found.features.astype(kind), "boxes": found.boxes, "obj_id": found.obj_id}
        arrays |= {"obj_conf": found.obj_conf}
        if found.attr_id is not None and found.attr_conf is not None:
            arrays |= {"attr_id": found.attr_id, "attr_conf": found.attr_conf}
        if found.box_ids is not None and found.box_flags is not None:
            arrays |= {"box_ids": np.array(items.texts(found.box_ids)), "box_flags": found.box_flags}
        self._rows.append({**row, **arrays})
        if len(self._rows) == ROWS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def release(self) -> None:
        if self._writer is not None:
            with suppress(OSError):  # what is still to be written does not matter, and may find no room
                self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        import pyarrow as pa
        import pyarrow.parquet as parquet

        columns = {name: _column([row[name] for row in self._rows]) for name in self._rows[0]}
        table = pa.table(columns)
        if self._writer is None:
            plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
            self._writer = parquet.ParquetWriter(self.partial, table.schema, **plain)
        self._writer.write_table(table, row_group_size=ROWS)
        self._rows.clear()


def _column(values: list[Any]) -> Any:
    """Numbers, texts, or arrays of one or two dimensions, whose rows differ in number."""
    import pyarrow as pa

    if not isinstance(values[0], np.ndarray):
        return pa.array(values)
    flat = pa.array(np.concatenate([value.reshape(-1) for value in values]))
    inner = flat if values[0].ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values[0].shape[1])
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)
