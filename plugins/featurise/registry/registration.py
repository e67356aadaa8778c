"""A published file's rows: written from what lies beside it, be it new or found in a bucket."""

import datetime
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection

from extractor.core.manifest import IndexEntry, Reject
from featurise.registry import feature_sets, image_ids, outcomes, publications, shards, upsert
from featurise.registry.statistics import Statistics
from featurise.registry.upsert import Row


class ShardRecord(BaseModel):
    """What is known of a published file beside its index and rejects: `X.record.json`, written before the file."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    registry: str | None
    """The registry that the file was published for; None where that is not known."""
    feature_set: feature_sets.Facts
    synthetic: bool
    batch: str
    run_id: str
    name: str
    sha256: str
    bytes: int
    images: int
    rejects: int
    statistics: Statistics
    warnings: list[str]
    listed_at: datetime.datetime | None
    """When its images were listed; what another run registered later knows more."""
    published_at: datetime.datetime
    batches: dict[str, str]
    """By key, the batch of a late image: all others are of the file's own."""

    def batch_of(self, key: str) -> str:
        """The batch that an image of the file belongs to."""
        return self.batches.get(key, self.batch)


class Registered(BaseModel):
    """Rows that a shard has in the registry."""

    model_config = ConfigDict(frozen=True)

    images: int
    rejects: int


def write(
    connection: Connection,
    number: int,
    record: ShardRecord,
    uris: Mapping[str, str | None],
    index: Sequence[IndexEntry],
    rejects: Sequence[Reject],
    *,
    registered_at: datetime.datetime | None = None,
) -> Registered:
    """Write a file's row and those of its images and rejects, and end its publication.

    `uris` are `uri`, `index_uri`, `rejects_uri` and `record_uri`. The feature set is locked by the caller. A file that
    was found in the bucket is `registered_at` its publication, since outcomes keep the order in which they came.
    """
    facts = record.model_dump(include={"batch", "run_id", "name", "sha256", "bytes", "warnings"})
    facts |= {"feature_set_id": number, "images": record.images, "rejects": len(rejects), **uris}
    facts |= {"statistics": record.statistics.model_dump(mode="json"), "published_at": record.published_at}
    file = shards.add(connection, facts)
    touched: set[str] = set()
    if registered_at is not None:
        touched = _give_ids(connection, number, record, index)
    done, refused, followed = _rows(connection, number, file, record, index, rejects)
    if registered_at is not None:
        done = [{**row, "registered_at": registered_at} for row in done]
        refused = [{**row, "registered_at": registered_at} for row in refused]
    touched |= upsert.images(connection, number, done, seen_at=record.listed_at)
    touched |= upsert.rejects(connection, number, refused, seen_at=record.listed_at)
    if registered_at is not None:
        outcomes.known_batches(connection, number, {record.batch, *touched}, record.run_id, registered_at)
    outcomes.changed(connection, number, touched | followed)
    outcomes.recount(connection, number, touched, record.run_id)
    feature_sets.mark(connection, number, synthetic=record.synthetic)
    publications.end(connection, str(uris["uri"]))
    return Registered(images=len(done), rejects=len(refused))


def _give_ids(connection: Connection, number: int, record: ShardRecord, index: Sequence[IndexEntry]) -> set[str]:
    """Let a found file's images have their ids, where the registry does not know any more that they were free.

    An owner that was registered before the images were listed must have been gone by then: else they would have been
    refused. Returns the batches whose counts change.
    """
    if record.listed_at is None:
        return set()
    mine = {line.key for line in index}
    gone = {
        owner.key
        for line, owners in image_ids.owned(connection, number, index)
        for owner in owners
        if owner.key not in mine and owner.sha256 != line.sha256 and owner.registered_at <= record.listed_at
    }
    return outcomes.note_deleted(connection, number, sorted(gone))


def _rows(
    connection: Connection,
    number: int,
    file: int,
    record: ShardRecord,
    index: Sequence[IndexEntry],
    rejects: Sequence[Reject],
) -> tuple[list[Row], list[Row], set[str]]:
    """The rows of a file's images and rejects, and the batches of the copies elsewhere that it does from now on.

    An id that another run gave away meanwhile stays with its owner. Copies that were done already when the images were
    listed are done by this file: theirs may be lost.
    """
    done: list[Row] = []
    followed: set[str] = set()
    refused = list(_rejected(rejects, record))
    mine = {line.key for line in index} | {line.key for line in rejects}
    for line, owners in image_ids.owned(connection, number, index):
        elsewhere = [owner for owner in owners if owner.key not in mine]
        batch = record.batch_of(line.key)
        if other := next((owner for owner in elsewhere if owner.sha256 != line.sha256), None):
            refused.append(image_ids.reject_row(line, batch, other, record.run_id))
            continue
        done.append(line.model_dump(exclude={"flagged"}) | {"batch": batch, "shard_id": file})
        if elsewhere:
            followed |= image_ids.follow(connection, number, line, file, record.listed_at)
    return done, refused, followed


def _rejected(rejects: Sequence[Reject], record: ShardRecord) -> Iterator[Row]:
    for line in rejects:
        yield line.model_dump(mode="json") | {"batch": record.batch_of(line.key), "run_id": record.run_id}
