"""Images' outcomes in the registry: which rows a key has, which of them are live, and how many a batch has."""

import datetime
import heapq
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from extractor.core.manifest import RejectReason
from featurise.registry.bulk import insert_into
from featurise.registry.models import Batch, Image, RegisteredReject

PAGE = 10_000
TABLES: tuple[type[Image] | type[RegisteredReject], ...] = (Image, RegisteredReject)
PASSING = (RejectReason.MISSING.value, RejectReason.CHANGED.value)
"""Reasons that speak of a moment, not of the image: it is looked at again."""


@dataclass(frozen=True, slots=True)
class Known:
    """One row of a key; `reason` is a reject's."""

    key: str
    etag: str
    batch: str
    live: bool
    reason: str | None
    passing: bool
    """Whether it settles nothing any more: it spoke of a moment, or of an id that is free since."""


def live(table: type[Image] | type[RegisteredReject]) -> ColumnElement[bool]:
    """Whether a row counts."""
    return and_(~table.superseded, table.deleted_at.is_(None))


def known(connection: Connection, feature_set: int | None, prefix: str) -> Iterator[tuple[str, list[Known]]]:
    """Every key below a prefix with its rows, in the order of keys, a page at a time."""
    if feature_set is None:
        return
    behind = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    streams = []
    for table in TABLES:
        reason, passing = (
            (RegisteredReject.reason, _passing()) if table is RegisteredReject else (cast(null(), Text), false())
        )
        statement = (
            select(table.key, table.etag, table.batch, live(table), reason, passing)
            .where(table.feature_set_id == feature_set, table.key >= prefix, table.key < behind)
            .order_by(table.key)
        )
        streams.append(_pages(connection, statement))
    for key, rows in groupby(heapq.merge(*streams, key=lambda row: row.key), key=lambda row: row.key):
        yield key, list(rows)


def _passing() -> ColumnElement[bool]:
    """Whether a reject settles nothing any more: it spoke of a moment, or the id was given again since."""
    owner = aliased(Image)
    same_id = (owner.feature_set_id == RegisteredReject.feature_set_id, owner.image_id == RegisteredReject.image_id)
    taken = exists().where(
        *same_id, owner.key != RegisteredReject.key, live(owner), owner.registered_at <= RegisteredReject.registered_at
    )
    return or_(
        RegisteredReject.reason.in_(PASSING), and_(RegisteredReject.reason == RejectReason.DUPLICATE_ID.value, ~taken)
    )


def _pages(connection: Connection, statement: Select[str, str, str, bool, str | None, bool]) -> Iterator[Known]:
    options = {"stream_results": True, "yield_per": PAGE}
    with connection.execute(statement, execution_options=options) as result:
        for page in result.partitions():
            for key, etag, batch, alive, reason, passing in page:
                yield Known(key, etag, batch, bool(alive), reason, bool(passing))


def revive(connection: Connection, feature_set: int, images: Iterable[tuple[str, str]]) -> set[str]:
    """These images (key and etag) stand where they stood: the latest outcome of each counts again, and no other does.

    Returns the batches whose counts change.
    """
    touched: set[str] = set()
    for key, etag in images:
        rows = []
        for table in TABLES:
            where = (table.feature_set_id == feature_set, table.key == key)
            touched.update(
                connection.scalars(update(table).where(*where).values(superseded=True).returning(table.batch))
            )
            found = select(table.registered_at).where(*where, table.etag == etag)
            rows += [(moment, table) for moment in connection.scalars(found)]
        _, table = max(rows, key=lambda row: row[0])
        chosen = (table.feature_set_id == feature_set, table.key == key, table.etag == etag)
        connection.execute(update(table).where(*chosen).values(superseded=False, deleted_at=None))
    return touched


def is_open(connection: Connection, feature_set: int, batches: Iterable[str]) -> bool:
    """Whether one of these batches has images without an outcome."""
    mine = (Batch.feature_set_id == feature_set, Batch.batch.in_(list(batches)))
    return bool(connection.scalar(select(exists().where(*mine, Batch.found > Batch.done + Batch.rejected))))


def note_deleted(connection: Connection, feature_set: int, keys: Iterable[str]) -> set[str]:
    """These images are gone; their rows stay, and count no more. Returns the batches whose counts change."""
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


def batches(connection: Connection, feature_set: int) -> list[str]:
    """Every batch of a feature set, in order."""
    return list(
        connection.scalars(select(Batch.batch).where(Batch.feature_set_id == feature_set).order_by(Batch.batch))
    )


def known_batches(
    connection: Connection, feature_set: int, batches: Iterable[str], run_id: str, listed_at: datetime.datetime
) -> None:
    """Let batches have a row before any listing of them is known: they hold at least what has an outcome."""
    for batch in sorted(batches):
        mine = {"feature_set_id": feature_set, "batch": batch}
        facts = {"found": 0, "done": 0, "rejected": 0, "deleted": 0, "run_id": run_id, "listed_at": listed_at}
        connection.execute(insert_into(connection, Batch).values(**mine, **facts).on_conflict_do_nothing())


def changed(connection: Connection, feature_set: int, batches: Iterable[str]) -> None:
    """Note that outcomes of these batches have changed: what shows them has to be written again."""
    for batch in sorted(batches):
        mine = (Batch.feature_set_id == feature_set, Batch.batch == batch)
        connection.execute(update(Batch).where(*mine).values(state=uuid.uuid4().hex[:12]))


def states(connection: Connection, feature_set: int) -> dict[str, str]:
    """By batch, what is another text after every change of its outcomes.

    The counts are in it, since processes of versions before 0004 of the registry note no change.
    """
    columns = (Batch.batch, Batch.state, Batch.done, Batch.rejected, Batch.deleted)
    found = connection.execute(select(*columns).where(Batch.feature_set_id == feature_set).order_by(Batch.batch))
    return {row.batch: f"{row.state or ''}:{row.done}:{row.rejected}:{row.deleted}" for row in found}


def recount(connection: Connection, feature_set: int, batches: Iterable[str], run_id: str) -> None:
    """Count the live outcomes of batches; their rows are locked first, so that every committed outcome is seen.

    Images whose outcome left a batch that this run has not listed have left it, too: they are deleted, or were
    changed on another day.
    """
    for batch in sorted(batches):
        where = (Batch.feature_set_id == feature_set, Batch.batch == batch)
        before = connection.execute(select(Batch.__table__).where(*where).with_for_update()).first()
        if before is None:
            continue
        counts: dict[str, int] = {}
        for name, table in (("done", Image), ("rejected", RegisteredReject)):
            mine = (table.feature_set_id == feature_set, table.batch == batch)
            counts[name] = connection.scalars(select(func.count()).select_from(table).where(*mine, live(table))).one()
        gone = (Image.feature_set_id == feature_set, Image.batch == batch, Image.deleted_at.is_not(None))
        deleted = connection.scalar(select(func.count()).select_from(Image).where(*gone, ~Image.superseded))
        left = max(before.done + before.rejected - sum(counts.values()), 0) if before.run_id != run_id else 0
        found = max(before.found - left, sum(counts.values()))
        connection.execute(update(Batch).where(*where).values(**counts, deleted=deleted, found=found))
