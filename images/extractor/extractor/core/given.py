"""The boxes that a user gives, by image: on the local disk while they are looked up, then a line of a file each.

A manifest's line says where its image's line lies (`Given`), so that a pod reads the boxes of its own images, one image
at a time, and no whole annotation file.
"""

import hashlib
import math
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from extractor.core import box_files, storage
from extractor.core.backbone_specs import GivenRule
from extractor.core.box_files import BoxesInvalid, BoxFormat, Coordinates, RawBox
from extractor.core.contract import BOX_ID, ID_BYTES, BoxFlag
from extractor.core.manifest import Entry, Given

SWAPPED_SHARE = 0.25
"""Up to this share of a file's boxes may have swapped corners, which is an annotator's slip; more are another form."""
ROUNDING = 1e-6
"""How far a relative coordinate may lie beyond 0 and 1."""

GLOBAL_ID = "global"
"""The id of the box that holds the whole image."""

Box = tuple[float, float, float, float]


class GivenBoxes(BaseModel):
    """The boxes of one image, x1, y1, x2, y2 in pixels, or `relative` to its sides: a line beside a manifest."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    image_id: str
    boxes: list[Box]
    ids: list[str]
    relative: bool = False


class BoxIndex:
    """The boxes of a file by the names of their images, in a database on the local disk."""

    def __init__(self, folder: Path, *, relative: bool) -> None:
        self._relative = relative
        self._file = folder / "boxes.sqlite"
        self._database = sqlite3.connect(self._file, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            "CREATE TABLE images (name TEXT PRIMARY KEY, place TEXT, asked INTEGER DEFAULT 0) WITHOUT ROWID;"
            "CREATE TABLE boxes (image TEXT, place TEXT, corners BLOB, id TEXT);"
        )

    @classmethod
    def read(cls, uri: str, form: BoxFormat, coordinates: Coordinates, folder: Path) -> "BoxIndex":
        """The boxes of a file, fetched to `folder`, a local one with room for twice its size.

        Raises storage.NotFound, storage.StorageError, or BoxesInvalid naming the image and the row.
        """
        path = Path(uri)
        if storage.is_s3(uri):
            path = folder / "boxes"
            storage.download(uri, path)
        elif not path.is_file():
            raise storage.NotFound(f"{uri}: there is no such file of boxes")
        index = cls(folder, relative=coordinates is Coordinates.RELATIVE)
        try:
            index._fill(box_files.read(path, form, coordinates), coordinates, once=box_files.once(form))
        except BoxesInvalid as error:
            raise BoxesInvalid(f"{uri}: {error}; nothing of it is used, correct it or declare another form") from error
        return index

    def _fill(self, images: Iterable[box_files.RawImage], coordinates: Coordinates, *, once: bool) -> None:
        count, swapped, first = 0, 0, ""
        for image in images:
            self._name(image, once=once)
            rows = []
            for raw in image.boxes:
                box = _corners(raw, coordinates)
                count += 1
                if box[2] < box[0] or box[3] < box[1]:
                    swapped += 1
                    first = first or f"{raw.where}: {_shown(raw.box)}"
                rows.append((image.name, raw.where, struct.pack("<4d", *box), _id(raw)))
            self._database.executemany("INSERT INTO boxes VALUES (?, ?, ?, ?)", rows)
        if swapped > SWAPPED_SHARE * count:
            raise BoxesInvalid(
                f"{first}: its right or lower side lies before its left or upper one, as in {swapped:,} of {count:,} "
                f"boxes: these are not {coordinates}"
            )
        self._database.execute("CREATE INDEX by_image ON boxes (image)")
        self._database.execute("COMMIT")
        twice = (
            "SELECT id, min(place), max(place) FROM boxes WHERE id IS NOT NULL GROUP BY image, id HAVING count(*) > 1"
        )
        for box_id, one, other in self._database.execute(f"{twice} LIMIT 1"):
            raise BoxesInvalid(f"{other}: the box's id {box_id!r} is another's of the image, {one}")

    def _name(self, image: box_files.RawImage, *, once: bool) -> None:
        conflict = "" if once else "OR IGNORE "
        try:
            self._database.execute(
                f"INSERT {conflict}INTO images (name, place) VALUES (?, ?)",  # noqa: S608 - of two words above
                (image.name, image.where),
            )
        except sqlite3.IntegrityError as error:
            (place,) = self._database.execute("SELECT place FROM images WHERE name = ?", (image.name,)).fetchone()
            raise BoxesInvalid(
                f"{image.where}: image {image.name!r} is named in {place} already; expected all its boxes in one line"
            ) from error

    def of(self, key: str, image_id: str, *others: str) -> GivenBoxes | None:
        """The boxes of an image, by key, by id, by file name where that is what ids are made of, or by `others`.

        None when the file does not name it. Raises BoxesInvalid when it is named in two ways.
        """
        name = key.rsplit("/", 1)[-1]
        names = {key, image_id, unquote(image_id), *others, *([name] if name.rsplit(".", 1)[0] == image_id else [])}
        marks = ", ".join("?" * len(names))
        asked = f"UPDATE images SET asked = 1 WHERE name IN ({marks}) RETURNING name, place"  # noqa: S608 - marks only
        found = sorted(self._database.execute(asked, tuple(names)).fetchall())
        if len(found) > 1:
            (one, at), (other, there) = found[:2]
            raise BoxesInvalid(f"image {key!r} is named twice, {one!r} ({at}) and {other!r} ({there}); name it once")
        if not found:
            return None
        rows = self._database.execute("SELECT corners, id FROM boxes WHERE image = ? ORDER BY rowid", (found[0][0],))
        boxes, ids = [], []
        for row, (corners, box_id) in enumerate(rows):
            boxes.append(struct.unpack("<4d", corners))
            ids.append(str(row) if box_id is None else box_id)
        return GivenBoxes(image_id=image_id, boxes=boxes, ids=ids, relative=self._relative)

    def not_asked_for(self, shown: int = 5) -> tuple[int, list[str]]:
        """How many images the file names that nobody asked for, and the first of them."""
        (count,) = self._database.execute("SELECT count(*) FROM images WHERE NOT asked").fetchone()
        first = self._database.execute("SELECT name FROM images WHERE NOT asked LIMIT ?", (shown,))
        return count, [name for (name,) in first]

    def close(self) -> None:
        """Remove the database."""
        self._database.close()
        self._file.unlink(missing_ok=True)


class Lines:
    """Images' boxes as lines of a file that stands at `uri`, or beside a manifest's images where that is None."""

    def __init__(self, file: BinaryIO, uri: str | None = None) -> None:
        self._file, self._uri = file, uri

    def add(self, found: GivenBoxes) -> Given:
        """Where the boxes of this image lie from now on."""
        line = dumped(found)
        start = self._file.tell()
        self._file.write(line)
        return Given(uri=self._uri, start=start, length=len(line), boxes=len(found.boxes), sha256=digest(line))


def dumped(found: GivenBoxes) -> bytes:
    """An image's line."""
    return found.model_dump_json().encode() + b"\n"


def digest(line: bytes) -> str:
    """SHA-256 of an image's line: another one, and the image is done again."""
    return hashlib.sha256(line).hexdigest()


def read(uri: str, entry: Entry, given: Given) -> GivenBoxes:
    """An image's boxes from where its manifest says.

    Raises storage.StorageError, or BoxesInvalid when other bytes lie there.
    """
    line, _ = storage.read(uri, (given.start, given.start + given.length))
    if digest(line) != given.sha256:
        raise BoxesInvalid(
            f"{uri}, bytes {given.start} to {given.start + given.length}: not the boxes of {entry.key} that the "
            "manifest means; plan the run again (clear its discover task)"
        )
    return GivenBoxes.model_validate_json(line)


@dataclass(frozen=True)
class Asked:
    """The boxes that a network is asked for: [N, 4] in the image's pixels, their ids [N] and `BoxFlag`s [N]."""

    boxes: NDArray[np.float32]
    ids: NDArray[np.bytes_]
    flags: NDArray[np.uint8]

    @property
    def sound(self) -> NDArray[np.float32]:
        """The boxes that the network is asked for, in their order."""
        sound: NDArray[np.float32] = self.boxes[self.flags == 0]
        return sound


def of_image(line: GivenBoxes, width: int, height: int, rule: GivenRule) -> Asked:
    """The boxes of a decoded image of this size in pixels."""
    boxes = np.array(line.boxes, np.float64).reshape(-1, 4)
    if line.relative:
        boxes *= [width, height, width, height]
    ids = [identity.encode() for identity in line.ids]
    if rule.with_global:
        boxes, ids = np.vstack([[0, 0, width, height], boxes]), [GLOBAL_ID.encode(), *ids]
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and flagged
        pixels = boxes.astype(np.float32)
    return Asked(pixels, np.array(ids, BOX_ID), flags(pixels, width, height))


def flags(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """What is wrong with each box [N, 4] of an image of this size; 0 for sound ones, be they partly outside."""
    x1, y1, x2, y2 = boxes.T
    finite = np.isfinite(boxes).all(axis=1)
    swapped = finite & ((x2 < x1) | (y2 < y1))
    ordered = finite & ~swapped
    found = np.where(finite, 0, BoxFlag.NOT_FINITE) | np.where(swapped, BoxFlag.SWAPPED, 0)
    found |= np.where(ordered & ((x2 == x1) | (y2 == y1)), BoxFlag.NO_AREA, 0)
    found |= np.where(ordered & ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)), BoxFlag.OUTSIDE, 0)
    return found.astype(np.uint8)


def _corners(raw: RawBox, coordinates: Coordinates) -> Box:
    """Left, top, right, bottom of a box.

    Raises BoxesInvalid for what no box of these coordinates can be.
    """
    box = raw.box
    if not isinstance(box, Sequence) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise BoxesInvalid(f"{raw.where}: expected four numbers ({coordinates}), found {_shown(box)}")
    try:
        x1, y1, x2, y2 = map(float, box)
    except OverflowError as error:
        raise BoxesInvalid(f"{raw.where}: a number beyond those of a computer: {_shown(box)}") from error
    if coordinates is Coordinates.XYWH:
        return x1, y1, x1 + x2, y1 + y2
    if coordinates is Coordinates.RELATIVE and any(
        math.isinf(side) or side < -ROUNDING or side > 1 + ROUNDING for side in (x1, y1, x2, y2)
    ):
        raise BoxesInvalid(f"{raw.where}: relative coordinates lie between 0 and 1, found {_shown(box)}")
    return x1, y1, x2, y2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _id(raw: RawBox) -> str | None:
    if raw.id is None:
        return None
    found = str(raw.id)
    if isinstance(raw.id, bool | float) or not isinstance(raw.id, int | str) or not found or "\0" in found:
        raise BoxesInvalid(f"{raw.where}: a box's id is a text or a whole number, found {_shown(raw.id)}")
    if len(found.encode(errors="replace")) > ID_BYTES:
        raise BoxesInvalid(f"{raw.where}: a box's id may have {ID_BYTES} bytes, found {_shown(found)}")
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
