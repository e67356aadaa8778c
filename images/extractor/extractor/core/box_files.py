"""Files of boxes that a user gives, in the formats that annotations have: read as they are declared, never guessed.

- `coco`: COCO annotations; `bbox` is x, y, width, height, and a box's id is its annotation's.
- `jsonl`: a JSON object a line, `{"image": …, "boxes": [[…], …], "ids": […]}`; `ids` may be left out.
- `tsv`: tab-separated, under a header with `image`, the coordinates (`x1 y1 x2 y2`, or `x y w h`), and perhaps `id`.
- `parquet`: a table of the same columns.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from extractor.core.exit_codes import ManifestInvalid

COCO_BYTES, LINE_BYTES = 512 * 1024 * 1024, 64 * 1024 * 1024
"""How large a COCO file, and a line of another, may be: each is in memory as a whole, in several times its size."""


class BoxFormat(StrEnum):
    """The format of a file of boxes."""

    COCO = "coco"
    JSONL = "jsonl"
    TSV = "tsv"
    PARQUET = "parquet"


class Coordinates(StrEnum):
    """What the four numbers of a box are; pixels are those of the image as its reader sees it, upright by EXIF."""

    XYXY = "xyxy"
    """Left, top, right, bottom in pixels."""
    XYWH = "xywh"
    """Left, top, width, height in pixels."""
    RELATIVE = "relative"
    """Left, top, right, bottom as shares of the image's width and height."""


class BoxesInvalid(ManifestInvalid):
    """Raised when a file of boxes is not of the declared form; the message names the image and the row."""


@dataclass(frozen=True)
class RawBox:
    """A box as a file has it; `box` is None where an image is named without any box, and `id` where boxes have none."""

    image: str
    where: str
    box: object = None
    id: object = None


@dataclass(frozen=True)
class RawImage:
    """An image that a file names, with its boxes; `where` is its place in the file."""

    name: str
    where: str
    boxes: list[RawBox]


def read(path: Path, form: BoxFormat, coordinates: Coordinates) -> Iterator[RawImage]:
    """The images of a file; where their rows may lie apart (`coco`, `tsv`, `parquet`), an image comes several times.

    Raises BoxesInvalid.
    """
    readers: dict[BoxFormat, Callable[[Path, Coordinates], Iterator[RawImage]]] = {
        BoxFormat.COCO: _coco,
        BoxFormat.JSONL: _jsonl,
        BoxFormat.TSV: _tsv,
        BoxFormat.PARQUET: _parquet,
    }
    return readers[form](path, coordinates)


def once(form: BoxFormat) -> bool:
    """Whether a file of this format names each image once."""
    return form is BoxFormat.JSONL


_KEPT = ("images", "annotations", "id", "file_name", "image_id", "bbox")


def _coco(path: Path, coordinates: Coordinates) -> Iterator[RawImage]:
    if coordinates is not Coordinates.XYWH:
        raise BoxesInvalid(f"COCO's boxes are x, y, width, height, and {coordinates} is declared; declare xywh")
    if (size := path.stat().st_size) > COCO_BYTES:
        raise BoxesInvalid(
            f"{size:,} bytes; COCO's one JSON object is read as a whole, and the limit is {COCO_BYTES:,}: split it, or "
            "write it as jsonl, which is read line by line"
        )
    # What is not used of an annotation, above all its segmentation, is let go as soon as it is read.
    found = _json(path.read_bytes(), "the file", object_hook=lambda each: {key: each.get(key) for key in _KEPT})
    if not isinstance(found, dict) or not all(isinstance(found[key], list) for key in ("images", "annotations")):
        raise BoxesInvalid("expected one JSON object with lists `images` and `annotations`, as COCO has them")
    names: dict[Any, str] = {}
    for place, image in enumerate(found["images"]):
        if not isinstance(image, dict) or not isinstance(image["id"], int | str):
            raise BoxesInvalid(f"images[{place}]: expected an object with `id` and `file_name`")
        if image["id"] in names:
            raise BoxesInvalid(f"images[{place}]: its id {image['id']!r} is another image's, {names[image['id']]!r}")
        names[image["id"]] = _name(image["file_name"] or image["id"], f"images[{place}]")
        yield RawImage(names[image["id"]], f"images[{place}]", [])
    for place, each in enumerate(found["annotations"]):
        if not isinstance(each, dict):
            raise BoxesInvalid(f"annotations[{place}]: expected an object with `id`, `image_id` and `bbox`")
        where = f"annotations[{place}]" if each["id"] is None else f"annotation {each['id']}"
        name = names.get(each["image_id"]) if isinstance(each["image_id"], int | str) else None
        if name is None:
            raise BoxesInvalid(f"{where}: image_id {each['image_id']!r} is the id of none of its images")
        yield RawImage(name, where, [RawBox(name, f"{where} (image {name!r})", each["bbox"], each["id"])])


def _jsonl(path: Path, coordinates: Coordinates) -> Iterator[RawImage]:
    del coordinates
    with path.open("rb") as file:
        for number, text in _lines(file):
            where = f"line {number}"
            line = _json(text, where)
            if not isinstance(line, dict) or not isinstance(boxes := line.get("boxes"), list):
                raise BoxesInvalid(f'{where}: expected {{"image": …, "boxes": [[…], …], "ids": […]}}')
            name = _name(line.get("image"), where)
            ids = line.get("ids", [None] * len(boxes))
            if not isinstance(ids, list) or len(ids) != len(boxes):
                found = len(ids) if isinstance(ids, list) else "none of them"
                raise BoxesInvalid(
                    f"{where}: image {name!r} has {len(boxes)} boxes; expected as many ids, found {found}"
                )
            places = (f"{where}: image {name!r}, row {row}" for row in range(len(boxes)))
            yield RawImage(name, where, [RawBox(name, *each) for each in zip(places, boxes, ids, strict=True)])


CORNERS, SIDES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")


def _tsv(path: Path, coordinates: Coordinates) -> Iterator[RawImage]:
    with path.open("rb") as file:
        texts = (_text(line, f"line {number}") for number, line in _lines(file))
        rows = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            columns = next(rows, [])
            yield from _table(columns, enumerate(_cells(columns, rows), start=2), "line", coordinates)
        except csv.Error as error:
            raise BoxesInvalid(f"line {rows.line_num}: not tab-separated text: {error}") from error


def _cells(columns: list[str], rows: Iterator[list[str]]) -> Iterator[Mapping[str, object]]:
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise BoxesInvalid(f"line {number}: {len(row)} fields, the header has {len(columns)}")
        cells: dict[str, object] = dict(zip(columns, row, strict=True))
        for name in (*CORNERS, *SIDES):
            with suppress(ValueError, KeyError):  # what is no number is refused with its image and row
                cells[name] = float(str(cells[name]))
        yield cells


def _parquet(path: Path, coordinates: Coordinates) -> Iterator[RawImage]:
    try:
        parquet, errors = import_module("pyarrow.parquet"), import_module("pyarrow").lib
    except ImportError as error:
        raise BoxesInvalid(
            "reading Parquet takes pyarrow, which is not installed here: install featurise-extractor[parquet], or "
            "write the table as tsv"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            rows = (row for some in file.iter_batches() for row in some.to_pylist())
            yield from _table(columns, enumerate(rows), "row", coordinates)
    except errors.ArrowException as error:
        raise BoxesInvalid(f"not Parquet that can be read: {error}") from error


def _table(
    columns: list[str], rows: Iterator[tuple[int, Mapping[str, object]]], unit: str, coordinates: Coordinates
) -> Iterator[RawImage]:
    """A table's rows, a box each."""
    wanted = SIDES if coordinates is Coordinates.XYWH else CORNERS
    if missing := [name for name in ("image", *wanted) if name not in columns]:
        raise BoxesInvalid(
            f"for coordinates {coordinates}, expected the columns image, {', '.join(wanted)} and perhaps id; "
            f"{', '.join(missing)} is missing among {', '.join(columns) or 'none'}"
        )
    for number, row in rows:
        name = _name(row["image"], f"{unit} {number}")
        where = f"{unit} {number}: image {name!r}"
        yield RawImage(name, where, [RawBox(name, where, [row[side] for side in wanted], row.get("id"))])


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for number, _ in enumerate(repeat(None), start=1):
        line = file.readline(LINE_BYTES + 1)
        if not line:
            return
        if len(line) > LINE_BYTES:
            raise BoxesInvalid(
                f"line {number} is longer than {LINE_BYTES:,} bytes; expected a line for each image or box"
            )
        if line.strip():
            yield number, line


def _json(data: bytes, where: str, **options: Any) -> Any:
    try:
        return json.loads(data, **options)
    except (ValueError, RecursionError) as error:
        raise BoxesInvalid(f"{where}: not JSON: {error}") from error


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BoxesInvalid(f"{where}: not UTF-8: {error.reason} at its byte {error.start}") from error


def _name(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise BoxesInvalid(f"{where}: expected an image's key, file name or id, found {str(value)[:40]!r}")
    return str(value)
