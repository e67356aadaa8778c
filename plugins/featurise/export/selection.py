"""What of a feature set is exported, and under which names: the options that all formats share."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

from featurise.errors import FeaturiseError

SHOWN = 5
"""Ids that a message names of many."""


class ExportFailed(FeaturiseError):
    """Raised when features cannot be exported as asked."""


class IdForm(StrEnum):
    """How an exported image is named; without one, as the declaration says, decoded."""

    STEM = "stem"
    """The file name without its last extension."""
    PATH = "path"
    """The path below the batch without its last extension."""
    NUMBER = "number"
    """The integer that the stem ends with, as VOLTA's annotations name COCO's images."""


@dataclass(frozen=True)
class Options:
    """What a person chooses of an export beside its format."""

    id_form: IdForm | None = None
    ids: Path | None = None
    """A file of ids, one a line: only these images, in that order."""
    batch: str | None = None
    prefix: str | None = None
    """Only images whose key in the bucket starts like that."""
    half: bool = False
    """Features in float16."""
    single: bool = False
    """One file instead of several, where a format leaves the choice."""
    as_of: int | None = None
    """The version of the catalogue; by default the live images as the registry has them."""

    def told(self) -> str:
        """The options that are set, as the journal of an export keeps them."""
        chosen = {name: value for name, value in vars(self).items() if value not in (None, False)}
        if self.ids is not None:
            chosen["ids"] = hashlib.sha256(self.ids.read_bytes()).hexdigest()[:12]
        return " ".join(f"{name}={value}" for name, value in chosen.items())


class Row(Protocol):
    """A live image as registry and catalogue name it."""

    @property
    def image_id(self) -> str:
        """The group in the file."""

    @property
    def key(self) -> str:
        """The key in the bucket."""

    @property
    def batch(self) -> str:
        """The day that it belongs to."""


def names(rows: Sequence[Row], form: IdForm | None, *, groups: bool) -> list[str]:
    """The names of images in an export; `groups`: of HDF5, where `/` would nest, so it stays encoded.

    Raises ExportFailed when one has no such name, or two have the same.
    """
    found = [_name(row, form, groups=groups) for row in rows]
    owners: dict[str, Row] = {}
    clashes = []
    for name, row in zip(found, rows, strict=True):
        other = owners.setdefault(name, row)
        if other.image_id != row.image_id:
            clashes.append(f"{name!r} for {other.key} and {row.key}")
    if clashes:
        raise ExportFailed(
            f"{len(clashes):,} images would have another's id ({_first(clashes)}); choose another --id-form"
        )
    return found


def in_order(wanted: Path, names: Sequence[str], rows: Sequence[Row]) -> list[int]:
    """The places in `names` of the ids that a file lists, in its order; the ids of the files are found, too.

    Raises ExportFailed when the file cannot be read, or names an image that is not there, or one twice.
    """
    try:
        lines = [line for line in wanted.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ExportFailed(f"{wanted} cannot be read ({error}); expected is a file with an id on each line") from error
    places = {row.image_id: place for place, row in enumerate(rows)}
    places |= {name: place for place, name in enumerate(names)}
    if missing := [repr(line) for line in lines if line not in places]:
        raise ExportFailed(
            f"{wanted}: {len(missing):,} of {len(lines):,} ids have no live image here ({_first(missing)}); "
            f"ids look like {names[0]!r}"
            if names
            else f"{wanted}: there is no image to choose from"
        )
    found = [places[line] for line in lines]
    if len(set(found)) < len(found):
        twice = [repr(line) for line in lines if lines.count(line) > 1][:1] or ["under two names"]
        raise ExportFailed(f"{wanted} names an image twice ({twice[0]}); expected is each id once")
    return found


def decoded(image_id: str) -> str:
    """An id made of a path, as that path."""
    return image_id.replace("%2F", "/").replace("%25", "%")


def encoded(path: str) -> str:
    """A path as the name of one group."""
    return path.replace("%", "%25").replace("/", "%2F")


def _name(row: Row, form: IdForm | None, *, groups: bool) -> str:
    if form is None:
        return row.image_id if groups or _is_stem(row) else decoded(row.image_id)
    if form is IdForm.STEM:
        return PurePosixPath(row.key).stem
    if form is IdForm.PATH:
        return encoded(_path(row)) if groups else _path(row)
    number = re.search(r"\d+$", PurePosixPath(row.key).stem, re.ASCII)
    if number is None:
        raise ExportFailed(f"{row.key} does not end with a number before its extension; choose another --id-form")
    return str(int(number[0]))


def _is_stem(row: Row) -> bool:
    """Whether an id is a file's name as it is: a percent sign in it stands for itself."""
    return row.image_id == PurePosixPath(row.key).stem


def _path(row: Row) -> str:
    for days in (row.batch, row.batch.replace("-", "/")):
        _, found, below = f"/{row.key}".rpartition(f"/{days}/")
        if found:
            return str(PurePosixPath(below).with_suffix(""))
    if _is_stem(row):
        raise ExportFailed(
            f"{row.key} does not lie in a folder of its batch {row.batch}, so where its path begins is not known; "
            "choose another --id-form"
        )
    path = decoded(row.image_id)
    return str(PurePosixPath(path).with_suffix("")) if row.key.endswith(path) else path


def _first(many: Iterable[str]) -> str:
    found = list(many)
    return ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
