"""Transactions on the registry that the settings name, once its tables are known to be this version's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Connection, Engine

from featurise.registry import engine, schema
from featurise.settings import settings


@cache
def _checked(url: str) -> Engine:
    made = engine.of(url)
    schema.check(made)
    return made


@contextmanager
def reading() -> Iterator[Connection]:
    """A transaction that reads.

    Raises engine.RegistryUnavailable, or schema.SchemaMismatch when the tables are not those of this version.
    """
    with engine.transaction(_checked(settings().registry), writes=False) as connection:
        yield connection


@contextmanager
def writing() -> Iterator[Connection]:
    """A transaction that writes: committed at the end of the block, rolled back when it raises.

    Raises as `reading` does.
    """
    with engine.transaction(_checked(settings().registry), writes=True) as connection:
        yield connection
