"""Outcomes into the registry, set by set: the newest outcome of a key is live, older ones are kept as superseded."""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, select, update

from featurise.registry.bulk import insert_into, staged
from featurise.registry.models import Image, RegisteredReject

Row = Mapping[str, Any]
Model = type[Image] | type[RegisteredReject]


def images(
    connection: Connection, feature_set: int, rows: Iterable[Row], *, seen_at: datetime.datetime | None = None
) -> set[str]:
    """Write featurised images; one that is there already (same key, same etag) gets this outcome.

    A row has the columns that `Image` adds to an outcome, and key, etag, image_id, batch and size. The images were
    listed at `seen_at` (now, by default): where another etag of a key was registered since, that one stays live, and
    where this one was featurised since, it stays as it is.
    Returns the batches whose counts change.
    """
    return _store(connection, feature_set, rows, Image, RegisteredReject, seen_at)


def rejects(
    connection: Connection, feature_set: int, rows: Iterable[Row], *, seen_at: datetime.datetime | None = None
) -> set[str]:
    """Write rejected images; one that is there already (same key, same etag) gets this outcome.

    `seen_at` is that of `images`. Returns the batches whose counts change.
    """
    return _store(connection, feature_set, rows, RegisteredReject, Image, seen_at)


def _store(
    connection: Connection,
    feature_set: int,
    rows: Iterable[Row],
    mine: Model,
    other: Model,
    seen_at: datetime.datetime | None,
) -> set[str]:
    with staged(connection, mine, _live(feature_set, rows)) as table:
        first, last = connection.execute(select(func.min(table.c.key), func.max(table.c.key))).one()
        if first is None:
            return set()
        # Without the range PostgreSQL would read every row of the feature set for each shard.
        near = partial(_near, feature_set, first, last)
        if seen_at is not None:
            for model in (mine, other):
                _outrun(connection, feature_set, table, mine, model, seen_at)
        touched = _supersede(connection, table, mine, near(mine), same_etag=False)
        touched |= _supersede(connection, table, other, near(other), same_etag=True)
        _upsert(connection, table, mine)
        return touched | set(connection.scalars(select(table.c.batch).distinct()))


def _near(feature_set: int, first: str, last: str, model: Model) -> ColumnElement[bool]:
    return and_(model.feature_set_id == feature_set, model.key >= first, model.key <= last)


def _live(feature_set: int, rows: Iterable[Row]) -> Iterator[Row]:
    facts = {"superseded": False, "deleted_at": None, "registered_at": datetime.datetime.now(datetime.UTC)}
    return ({"feature_set_id": feature_set, **facts, **row} for row in rows)


def _outrun(
    connection: Connection, feature_set: int, table: Table, mine: Model, model: Model, seen_at: datetime.datetime
) -> None:
    """Heed what was registered since the staged rows' images were listed.

    The row of an image that was replaced counts no more; one that another run has featurised keeps that outcome.
    """
    same_key = (model.feature_set_id == feature_set, model.key == table.c.key)
    # As a scalar it is looked up key by key, on both databases; with the range SQLite would read all of it each time.
    newest = select(func.max(model.registered_at)).where(*same_key, ~model.superseded)
    replaced = newest.where(model.etag != table.c.etag).scalar_subquery() > seen_at
    connection.execute(update(table).where(replaced).values(superseded=True))
    if model is Image:
        done = newest.where(model.etag == table.c.etag).scalar_subquery() > seen_at
        # A reject is kept beside it, as the older of the two: it must not be the latest when the image comes back.
        older = update(table).values(superseded=True, registered_at=seen_at)
        connection.execute((delete(table) if mine is Image else older).where(done))


def _supersede(
    connection: Connection, table: Table, model: Model, near: ColumnElement[bool], *, same_etag: bool
) -> set[str]:
    """Let the staged keys' earlier rows count no more; with `same_etag`, those of the same image too."""
    match = and_(table.c.key == model.key, ~table.c.superseded)
    if not same_etag:
        match = and_(match, table.c.etag != model.etag)
    # The list of keys spares SQLite a look through the staged rows for each of the range.
    known = (near, model.key.in_(select(table.c.key)), ~model.superseded)
    statement = update(model).where(*known, exists().where(match)).values(superseded=True)
    return set(connection.scalars(statement.returning(model.batch)))


def _upsert(connection: Connection, table: Table, model: Model) -> None:
    key = ("feature_set_id", "key", "etag")
    names = [column.name for column in model.__table__.columns]
    # SQLite reads "ON" after a bare SELECT as a join; a WHERE keeps the two apart.
    insert = insert_into(connection, model).from_select(names, select(table).where(table.c.key.is_not(None)))
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=key, set_={name: insert.excluded[name] for name in names if name not in key}
        )
    )
