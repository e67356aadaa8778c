"""What an export takes from the registry: the files of a feature set, and of each the images that count."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import h5py
from sqlalchemy import Connection, select

from extractor.core import contract, storage
from extractor.core.contract import Regions
from featurise.export import selection
from featurise.export.selection import ExportFailed, Options
from featurise.objects import catalogue
from featurise.registry import feature_sets
from featurise.registry.feature_sets import Chosen
from featurise.registry.models import Image, RegisteredShard
from featurise.registry.outcomes import live

NO_OPTIONS = Options()


class Found(NamedTuple):
    """A published file, and an image that it holds."""

    uri: str
    sha256: str
    bytes: int
    image_id: str
    key: str
    batch: str


class Outdated(ExportFailed):
    """Raised when a folder holds an export of images that have been replaced or removed since."""


@dataclass(frozen=True)
class Source:
    """One published file and the ids that are taken from it."""

    uri: str
    sha256: str
    bytes: int
    ids: tuple[str, ...]
    """As the export names them."""
    found_under: tuple[str, ...] | None = None
    """The groups of the file, where they have other names."""
    part: int | None = None
    """Which part, where a file is come to more than once."""
    flagged: int = 0
    """Given boxes of it that are none, where all of its images are taken."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the file that are taken."""
        return self.ids if self.found_under is None else self.found_under

    @property
    def name(self) -> str:
        """Batch and file name, without suffix: unique in an export."""
        batch, file = self.uri.removesuffix(".h5").split("/")[-2:]
        return f"{batch}-{file}" if self.part is None else f"{batch}-{file}-{self.part}"

    @property
    def digest(self) -> str:
        """What identifies this source's share of an export, whichever keys its ids were found under."""
        return hashlib.sha256("\n".join((self.sha256, *sorted(self.ids))).encode()).hexdigest()

    def regions(self, group: h5py.Group) -> Regions:
        """An image of this file.

        Raises ExportFailed when it cannot be read.
        """
        try:
            return contract.read_image(group)
        except contract.DAMAGED as error:
            raise ExportFailed(
                f"{self.uri}: image {group.name} cannot be read ({error}); `featurise verify --read` says whether the "
                "object is at fault, or else the disk that it was fetched to"
            ) from error


def feature_set(connection: Connection, dataset: str, backbone: str, revision: str | None) -> Chosen:
    """The feature set that is meant.

    Raises feature_sets.NoSuchFeatureSet, or ExportFailed when there is more than one.
    """
    found = feature_sets.chosen(connection, dataset, backbone, revision)
    if len(found) == 1:
        return found[0]
    revisions = ", ".join(row.revision for row in found)
    raise ExportFailed(
        f"dataset {dataset!r} under {backbone!r} has {len(found)} revisions, which are not comparable: "
        f"choose one of {revisions} (--revision)"
    )


def sources(
    connection: Connection,
    number: int,
    options: Options = NO_OPTIONS,
    *,
    groups: bool = True,
    ordered: bool = False,
) -> list[Source]:
    """The files of a feature set in the order of batches, with their live images; an id comes from one file only.

    `groups` and `ordered` are the format's (`Writer`). Raises ExportFailed when the options name what is not there.
    """
    rows = _unique(_live(connection, number) if options.as_of is None else _then(connection, number, options.as_of))
    rows = [row for row in rows if options.batch in (None, row.batch) and row.key.startswith(options.prefix or "")]
    named = selection.names(rows, options.id_form, groups=groups)
    if options.ids is None:
        chosen = list(range(len(rows)))
    else:
        chosen = selection.in_order(options.ids, named, rows)
        if not ordered:
            chosen.sort()
    found: list[Source] = []
    seen: dict[str, int] = {}
    flagged = _flagged(connection, number)
    for (uri, sha256, size), places in groupby(chosen, key=lambda place: rows[place][:3]):
        its = list(places)
        ids, under = tuple(named[place] for place in its), tuple(rows[place].image_id for place in its)
        part = seen[uri] = seen.get(uri, -1) + 1
        of_all = flagged.get((uri, len(its)), 0)
        found.append(Source(uri, sha256, size, ids, under if under != ids else None, part or None, of_all))
    return found


def _flagged(connection: Connection, number: int) -> dict[tuple[str, int], int]:
    """The given boxes that are none, of the files that have such: by address and number of images."""
    count = RegisteredShard.statistics["flagged"].as_integer()
    rows = connection.execute(
        select(RegisteredShard.uri, RegisteredShard.images, count).where(
            RegisteredShard.feature_set_id == number, count > 0
        )
    )
    return {(uri, images): found for uri, images, found in rows}


def _live(connection: Connection, number: int) -> Iterable[Found]:
    rows = connection.execute(
        select(
            RegisteredShard.uri, RegisteredShard.sha256, RegisteredShard.bytes, Image.image_id, Image.key, Image.batch
        )
        .join_from(Image, RegisteredShard, Image.shard_id == RegisteredShard.id)
        .where(Image.feature_set_id == number, live(Image))
        .order_by(RegisteredShard.batch, RegisteredShard.uri, Image.key)
    )
    return (Found(*row) for row in rows)


def _then(connection: Connection, number: int, version: int) -> Iterable[Found]:
    """What counted at a version of the catalogue.

    Raises ExportFailed when there is no such version, or CatalogueUnreadable.
    """
    newest = (
        select(RegisteredShard.uri)
        .where(RegisteredShard.feature_set_id == number)
        .order_by(RegisteredShard.id.desc())
        .limit(1)
    )
    folder = str(connection.scalar(newest)).rsplit("/", 2)[0]
    try:
        segments = catalogue.version(folder, version).segments
    except storage.NotFound as error:
        why = f"there is no version {version} of the catalogue in {folder}; catalogue.json names the last"
        raise ExportFailed(why) from error
    found = []
    for row in (row for segment in segments for row in catalogue.rows(folder, segment)):
        uri = row["file"] if row["file"].startswith("s3://") else storage.join(folder, row["file"])
        facts = (row[name] for name in ("file_sha256", "file_bytes", "image_id", "key", "batch"))
        found.append(Found(uri, *facts))
    return sorted(found, key=lambda one: (one.uri, one.key))


def _unique(rows: Iterable[Found]) -> list[Found]:
    """Rows without the copies of an image: its id comes from one file, and once."""
    found: dict[str, Found] = {}
    for row in rows:
        found.setdefault(row.image_id, row)
    return list(found.values())
