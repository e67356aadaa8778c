"""The registry's schema: brought up to date by one command, refused when it is not the one that this version knows."""

import logging
import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Inspector, inspect, text

from featurise.errors import FeaturiseError
from featurise.registry import engine

# Two lines at each look at a schema, which every task's log would begin with.
logging.getLogger(MigrationContext.__module__).setLevel(logging.WARNING)

VERSION_TABLE = "featurise_schema"
"""Airflow may share the database, and keeps its own version in alembic's usual table."""


class SchemaMismatch(FeaturiseError):
    """Raised when the registry's tables are missing, older, or newer than this version of the platform."""


def migrate(database: Engine) -> str:
    """Bring the registry to this version's schema; returns its revision. An SQLite database is made, with its folder.

    Raises SchemaMismatch when the registry is newer, or engine.RegistryUnavailable.
    """
    if (file := engine.file(database.url)) is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise engine.RegistryUnavailable(
                f"the registry's folder {file.parent} cannot be made ({error.strerror}); "
                "set FEATURISE_REGISTRY to a database in a folder that can"
            ) from error
    with engine.transaction(database, writes=True) as connection:
        if database.dialect.name == "postgresql":
            # Several processes may start at once; SQLite's write lock makes them take turns anyway.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('featurise_schema'))"))
        if (found := _current(connection)) is not None:
            _refuse_unknown(found, database)
        command.upgrade(_config(connection), "head")
    return _head()


def check(database: Engine) -> None:
    """Raises SchemaMismatch unless the registry has exactly this version's schema, engine.RegistryUnavailable."""
    where, file = engine.shown(database.url), engine.file(database.url)
    if file is not None and not os.access(file, os.F_OK):  # to connect would make it
        raise SchemaMismatch(
            f"there is no registry {where}: set FEATURISE_REGISTRY to the one that Airflow's processes use (a demo "
            "that is left running: `. .demo/env`); only for a new installation, `featurise migrate` makes one"
        )
    with engine.transaction(database, writes=False) as connection:
        found = _current(connection)
    if found is None:
        raise SchemaMismatch(f"the registry {where} has no tables yet; run `featurise migrate`")
    _refuse_unknown(found, database)
    if found != _head():
        raise SchemaMismatch(
            f"the registry {where} has schema {found}, this version needs {_head()}; run `featurise migrate`"
        )


def _refuse_unknown(found: str, database: Engine) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found not in known:
        raise SchemaMismatch(
            f"the registry {engine.shown(database.url)} has schema {found}, this version knows "
            f"up to {_head()}: a newer version migrated it; upgrade this installation"
        )


def _head() -> str:
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def _current(connection: Connection) -> str | None:
    """The schema that the registry says it has; None where there are no tables of it.

    Raises SchemaMismatch when it does not say so although there are, or says two.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_heads()
    if len(found) == 1:
        return found[0]
    tables = inspect(connection)
    if not found and not tables.has_table("feature_sets"):
        return None
    rows = f"has {len(found)} rows ({', '.join(sorted(found))})" if found else "has no row"
    made_by = {"0006": ("gpu_attempts", "assigned_at"), "0005": ("alerts", "id"), "0004": ("batches", "state")}
    made_by |= {"0003": ("incidents", "id"), "0002": ("publications", "uri")}
    looks = next((version for version, column in made_by.items() if _has(tables, *column)), "0001")
    raise SchemaMismatch(
        f"the registry {engine.shown(connection.engine.url)} has tables, and {VERSION_TABLE}, which says of which "
        f"schema, {rows} where one is expected: restore the registry from its backup; or leave exactly one row there, "
        f"with version_num '{looks}', which its tables look like, and run `featurise migrate`"
    )


def _has(tables: Inspector, table: str, column: str) -> bool:
    return tables.has_table(table) and any(found["name"] == column for found in tables.get_columns(table))


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config
