"""What only a catalogue knows of a feature set: which images were deleted, came back, or are copies under another key.

Published files and their records tell everything else. Of a declared feature set a listing of the images tells it
better; of one that is declared no more, nobody lists the images again.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select

from extractor.core import storage
from featurise.objects import catalogue
from featurise.objects.catalogue import Version
from featurise.registry import feature_sets, locations, outcomes
from featurise.registry.bulk import insert_into
from featurise.registry.models import Image, RegisteredShard
from featurise.registry.outcomes import live
from featurise.registry.session import reading, writing

Row = Mapping[str, Any]
Seen = tuple[str, str]
"""A key and its etag."""


def ahead(location: str, declared: Iterable[str]) -> Iterator[tuple[str, Version]]:
    """The folders below a location whose catalogue knows more than this registry, but for those of declared sets.

    To be asked before files are taken in. Raises catalogue.CatalogueUnreadable, or storage.StorageError.
    """
    bucket, _ = storage.split(location)
    places = [item.key for item in storage.listing(f"{location}/") if item.key.endswith("/catalogue.json")]
    for key in places:
        folder = f"s3://{bucket}/{key.rsplit('/', 1)[0]}"
        found = catalogue.version(folder)
        with reading() as connection:
            written = feature_sets.version(connection, feature_sets.named(connection, found.feature_set))
            foreign = found.registry != locations.own_id(connection)
        if found.feature_set not in set(declared) and (foreign or found.version > written):
            yield folder, found


def outcomes_of(folder: str, found: Version, run_id: str) -> None:
    """Let the images that count be those of a version, once its files are taken in; later files' images stay.

    Raises catalogue.CatalogueUnreadable, or storage.StorageError.
    """
    with writing() as connection:
        number = feature_sets.named(connection, found.feature_set)
        if number is None:
            return
        feature_sets.lock(connection, number)
        touched: set[str] = set()
        for segment in found.segments:
            rows = {(row["key"], row["etag"]): row for row in catalogue.rows(folder, segment)}
            touched |= _of_batch(connection, number, folder, segment.batch, rows, found.written_at)
        outcomes.changed(connection, number, touched)
        outcomes.recount(connection, number, touched, run_id)


def _of_batch(
    connection: Connection,
    number: int,
    folder: str,
    batch: str,
    rows: Mapping[Seen, Row],
    written_at: datetime.datetime,
) -> set[str]:
    mine = (Image.feature_set_id == number, Image.batch == batch)
    statement = select(Image.key, Image.etag, live(Image), RegisteredShard.published_at).join_from(
        Image, RegisteredShard
    )
    known = {(row.key, row.etag): row for row in connection.execute(statement.where(*mine))}
    counting = {image for image, row in known.items() if row[2] and row.published_at <= written_at}
    gone = {key for key, _ in counting - rows.keys()} - {key for key, _ in rows}
    touched = outcomes.note_deleted(connection, number, gone)
    lost = rows.keys() - {image for image, row in known.items() if row[2]}
    copies = [_copy(connection, number, folder, rows[image]) for image in lost - known.keys()]
    if found := [copy for copy in copies if copy is not None]:
        connection.execute(insert_into(connection, Image).values(found).on_conflict_do_nothing())
    there = {(copy["key"], copy["etag"]) for copy in found} | (lost & known.keys())
    touched |= outcomes.revive(connection, number, there)
    return touched | ({batch} if there else set())


def _copy(connection: Connection, number: int, folder: str, row: Row) -> dict[str, Any] | None:
    """The row of an image that no list of a file names; None where its file was not taken in."""
    uri = row["file"] if row["file"].startswith("s3://") else storage.join(folder, row["file"])
    shard = connection.scalar(select(RegisteredShard.id).where(RegisteredShard.uri == uri))
    if shard is None:
        return None
    facts = {name: row[name] for name in ("key", "etag", "image_id", "batch", "size", "sha256", "boxes")}
    return {**facts, "feature_set_id": number, "shard_id": shard, "registered_at": row["published_at"]}
