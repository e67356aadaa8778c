"""Images' outcomes in the registry: which rows a key has, which of them are live, and how many a batch has."""

import datetime
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import ColumnElement, Connection, Select, Text, and_, cast, func, null, select, update

from featurise.registry.bulk import insert_into
from featurise.registry.models import Batch, Image, Reject

PAGE = 10_000
TABLES: tuple[type[Image] | type[Reject], ...] = (Image, Reject)


@dataclass(frozen=True, slots=True)
class Known:
    """One row of a key; `reason` is a reject's."""

    key: str
    etag: str
    batch: str
    live: bool
    reason: str | None


def live(table: type[Image] | type[Reject]) -> ColumnElement[bool]:
    """Whether a row counts."""
    return and_(~table.superseded, table.deleted_at.is_(None))


def known(connection: Connection, feature_set: int | None, prefix: str) -> Iterator[tuple[str, list[Known]]]:
    """Every key below a prefix with its rows, in the order of keys, a page at a time."""
    if feature_set is None:
        return
    behind = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    streams = []
    for table in TABLES:
        reason = Reject.reason if table is Reject else cast(null(), Text)
        statement = (
            select(table.key, table.etag, table.batch, live(table), reason)
            .where(table.feature_set_id == feature_set, table.key >= prefix, table.key < behind)
            .order_by(table.key)
        )
        streams.append(_pages(connection, statement))
    for key, rows in groupby(heapq.merge(*streams, key=lambda row: row.key), key=lambda row: row.key):
        yield key, list(rows)


def _pages(connection: Connection, statement: Select[str, str, str, bool, str | None]) -> Iterator[Known]:
    options = {"stream_results": True, "yield_per": PAGE}
    with connection.execute(statement, execution_options=options) as result:
        for page in result.partitions():
            for key, etag, batch, alive, reason in page:
                yield Known(key, etag, batch, bool(alive), reason)


def revive(connection: Connection, feature_set: int, pictures: Iterable[tuple[str, str]]) -> set[str]:
    """These pictures (key and etag) stand where they stood: their rows count again, other rows of their keys do not.

    Returns the batches whose counts change.
    """
    touched: set[str] = set()
    for key, etag in pictures:
        for table in TABLES:
            where = (table.feature_set_id == feature_set, table.key == key)
            older = update(table).where(*where, table.etag != etag).values(superseded=True)
            again = update(table).where(*where, table.etag == etag).values(superseded=False, deleted_at=None)
            touched.update(*(connection.scalars(change.returning(table.batch)) for change in (older, again)))
    return touched


def note_deleted(connection: Connection, feature_set: int, keys: Iterable[str]) -> set[str]:
    """These pictures are gone; their rows stay, and count no more. Returns the batches whose counts change."""
    now = datetime.datetime.now(datetime.UTC)
    touched: set[str] = set()
    for key in keys:
        for table in TABLES:
            where = (table.feature_set_id == feature_set, table.key == key, live(table))
            gone = update(table).where(*where).values(deleted_at=now)
            touched.update(connection.scalars(gone.returning(table.batch)))
    return touched


def listed(connection: Connection, feature_set: int, batch: str, found: int, run_id: str) -> None:
    """Write down how many images a listing found in a batch; its outcomes are for `recount`."""
    facts = {"found": found, "run_id": run_id, "listed_at": datetime.datetime.now(datetime.UTC)}
    connection.execute(
        insert_into(connection, Batch)
        .values(feature_set_id=feature_set, batch=batch, done=0, rejected=0, deleted=0, **facts)
        .on_conflict_do_update(index_elements=["feature_set_id", "batch"], set_=facts)
    )


def recount(connection: Connection, feature_set: int, batches: Iterable[str]) -> None:
    """Count the live outcomes of batches; their rows are locked first, so that every committed outcome is seen."""
    for batch in sorted(batches):
        where = (Batch.feature_set_id == feature_set, Batch.batch == batch)
        connection.execute(select(Batch.batch).where(*where).with_for_update())
        counts = {}
        for name, table in (("done", Image), ("rejected", Reject)):
            mine = (table.feature_set_id == feature_set, table.batch == batch)
            counts[name] = connection.scalar(select(func.count()).select_from(table).where(*mine, live(table)))
        gone = (Image.feature_set_id == feature_set, Image.batch == batch, Image.deleted_at.is_not(None))
        deleted = connection.scalar(select(func.count()).select_from(Image).where(*gone))
        connection.execute(update(Batch).where(*where).values(**counts, deleted=deleted))
