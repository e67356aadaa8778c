"""The registry's database, whatever its schema: one engine a process and URL, and transactions on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from extractor.core.redact import fit, redacted
from featurise.errors import FeaturiseError

BUSY_MILLISECONDS = 60_000
"""How long one SQLite connection waits for another's write."""

PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""libpq's: seconds for a connection, and milliseconds for a server that has gone silent to be taken for lost.

The URL may say otherwise."""


class RegistryUnavailable(FeaturiseError):
    """Raised when the registry's database cannot be used: it does not answer, or its URL names none."""


@cache
def of(url: str) -> Engine:
    """The engine for a URL; SQLite with write-ahead log, foreign keys, and real transactions.

    Raises RegistryUnavailable when the URL is none, or of a database that the registry does not know.
    """
    try:
        backend = make_url(url).get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ValueError(backend)
        postgresql = backend == "postgresql"
        patience = {name: value for name, value in PATIENCE.items() if postgresql and name not in make_url(url).query}
        made = create_engine(url, pool_pre_ping=postgresql, connect_args=patience)
    except (ArgumentError, ValueError, ImportError):
        # What cannot be taken apart may hold a password: neither the text nor its error is shown.
        raise RegistryUnavailable(
            "FEATURISE_REGISTRY names no database that the registry can be in; "
            "expected postgresql+psycopg://user:password@host/database or sqlite:////folder/registry.db"
        ) from None
    if backend == "sqlite":
        event.listen(made, "connect", _sqlite_connected)
        event.listen(made, "begin", _sqlite_begins)
    return made


def shown(url: URL) -> str:
    """A URL without its password, and without the value of any option that may hold one."""
    return redacted(url.render_as_string(hide_password=True))


def reason(error: SQLAlchemyError) -> str:
    """What the database said, as one line without the statement, and without secrets of its URL."""
    return fit(" ".join(str(getattr(error, "orig", error)).split()))


def file(url: URL) -> Path | None:
    """The file of an SQLite database; none of one in memory, and of a server's."""
    name = url.database or ":memory:"
    is_file = url.get_backend_name() == "sqlite" and name != ":memory:" and not name.startswith("file:")
    return Path(name) if is_file else None


@contextmanager
def transaction(database: Engine, *, writes: bool) -> Iterator[Connection]:
    """A transaction on a database, whatever its schema: committed at the end of the block, rolled back when it raises.

    Raises RegistryUnavailable.
    """
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(database.connect()).execution_options(writes=writes)
            stack.enter_context(connection.begin())
        except SQLAlchemyError as error:
            raise RegistryUnavailable(
                f"the registry {shown(database.url)} does not answer: {reason(error)}; "
                "check FEATURISE_REGISTRY and that the database is up"
            ) from error
        yield connection


def _sqlite_connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for a consistent read
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _sqlite_begins(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
