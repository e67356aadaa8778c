"""Connections to the registry: one engine a process, transactions that read and transactions that write."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from featurise.errors import FeaturiseError
from featurise.settings import settings

BUSY_MILLISECONDS = 60_000
"""How long one SQLite connection waits for another's write."""


class RegistryUnavailable(FeaturiseError):
    """Raised when the registry's database does not answer."""


@cache
def engine(url: str) -> Engine:
    """The engine for a URL; SQLite with write-ahead log, foreign keys, and real transactions."""
    found = make_url(url)
    if found.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if found.database not in (None, "", ":memory:"):
        Path(str(found.database)).parent.mkdir(parents=True, exist_ok=True)
    made = create_engine(url)
    event.listen(made, "connect", _sqlite_connected)
    event.listen(made, "begin", _sqlite_begins)
    return made


def _sqlite_connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for a consistent read
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _sqlite_begins(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@cache
def _checked(url: str) -> Engine:
    from featurise.registry import schema

    made = engine(url)
    schema.check(made)
    return made


@contextmanager
def _transaction(*, writes: bool) -> Iterator[Connection]:
    url = settings().registry
    try:
        connected = _checked(url).connect()
    except OperationalError as error:
        shown = make_url(url).render_as_string(hide_password=True)
        raise RegistryUnavailable(
            f"the registry {shown} does not answer: {error.orig}; check FEATURISE_REGISTRY and that the database is up"
        ) from error
    with connected as connection, connection.execution_options(writes=writes).begin():
        yield connection


@contextmanager
def reading() -> Iterator[Connection]:
    """A transaction that reads.

    Raises RegistryUnavailable, or schema.SchemaMismatch when the tables are not those of this version.
    """
    with _transaction(writes=False) as connection:
        yield connection


@contextmanager
def writing() -> Iterator[Connection]:
    """A transaction that writes: committed at the end of the block, rolled back when it raises.

    Raises as `reading` does.
    """
    with _transaction(writes=True) as connection:
        yield connection
