"""Many rows at once, into a temporary table that set-wise statements read.

PostgreSQL takes them by COPY, SQLite by executemany.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, insert
from sqlalchemy.dialects import postgresql, sqlite

from featurise.registry.models import Base


def insert_into(connection: Connection, model: type[Base]) -> Any:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(model)


@contextmanager
def staged(connection: Connection, model: type[Base], rows: Iterable[Mapping[str, Any]]) -> Iterator[Table]:
    """A temporary table with a model's columns, filled with these rows until the block ends.

    Every row must have every column.
    """
    columns = [Column(column.name, column.type) for column in model.__table__.columns]
    table = Table(f"staged_{model.__tablename__}", MetaData(), *columns, prefixes=["TEMPORARY"])
    table.create(connection)
    try:
        _load(connection, table, rows)
        yield table
    finally:
        if connection.in_transaction() and not connection.invalidated:
            table.drop(connection)


def _load(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    names = [column.name for column in table.columns]
    dialect = connection.dialect
    if dialect.name == "postgresql":
        listed = ", ".join(names)
        cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
        with cursor, cursor.copy(f"COPY {table.name} ({listed}) FROM STDIN") as copy:
            # COPY is the driver's own: what the columns' types do to a value is not done by itself.
            processors = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns]
            bound = list(zip(names, processors, strict=True))
            for row in rows:
                copy.write_row([process(row[name]) if process else row[name] for name, process in bound])
        return
    pending: list[Mapping[str, Any]] = []
    for row in rows:
        pending.append(row)
        if len(pending) == 10_000:
            connection.execute(insert(table), pending)
            pending = []
    if pending:
        connection.execute(insert(table), pending)
