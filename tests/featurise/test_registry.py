"""The registry's schema, the same on SQLite and PostgreSQL."""

import datetime
import socket
import time
from itertools import count

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from featurise.registry import engine, feature_sets, schema, shards, upsert
from featurise.registry.engine import RegistryUnavailable
from featurise.registry.models import Base
from featurise.registry.session import reading, writing
from featurise.settings import settings


def test_migrations_make_the_tables_of_the_models(registry):
    with engine.of(registry).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(registry):
    assert schema.migrate(engine.of(registry)) == schema.migrate(engine.of(registry))


def test_more_addresses_are_looked_up_than_a_statement_takes(registry):
    with reading() as connection:
        assert shards.known(connection, [f"s3://features/{number}.h5" for number in range(70_000)]) == set()


def test_a_registry_without_tables_names_the_command(empty_registry):
    with pytest.raises(schema.SchemaMismatch, match="`featurise migrate`"), reading():
        pass


def test_a_newer_schema_is_refused_by_readers_and_migrations(registry):
    with engine.of(registry).begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    for use in (schema.check, schema.migrate):
        with pytest.raises(schema.SchemaMismatch, match=r"has schema 9999.*upgrade this installation"):
            use(engine.of(registry))


def test_a_server_that_accepts_and_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/registry?connect_timeout=2"
        began = time.monotonic()
        with (
            pytest.raises(RegistryUnavailable, match="does not answer"),
            engine.transaction(engine.of(url), writes=False),
        ):
            pass
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sqlite_does_not_read_a_batch_again_for_each_image_of_a_shard(registry, spec):
    def rows(etag: str, step: int) -> list[upsert.Row]:
        facts = {"etag": etag, "size": 1, "batch": "2026-11-23", "reason": "empty", "detail": "", "run_id": "run"}
        return [{"key": f"{number:04d}", "image_id": f"{number:04d}", **facts} for number in range(0, 4_000, step)]

    thousands = count()
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        upsert.rejects(connection, number, rows("old", 1))
        connection.connection.driver_connection.set_progress_handler(lambda: next(thousands) < 0, 1_000)
        upsert.rejects(connection, number, rows("new", 20), seen_at=datetime.datetime.now(datetime.UTC))
        connection.connection.driver_connection.set_progress_handler(None, 0)
    assert next(thousands) < 1_000, "thousands of SQLite's instructions for 200 new rows beside 4,000"


@pytest.mark.parametrize("options", ["sslpassword=hunter22", "unheard_of=hunter22"])
def test_no_option_of_the_registry_s_address_is_told(monkeypatch, options: str):
    monkeypatch.setenv("FEATURISE_REGISTRY", f"postgresql+psycopg://me@127.0.0.1:1/none?{options}")
    settings.cache_clear()
    try:
        with pytest.raises(RegistryUnavailable, match="check FEATURISE_REGISTRY") as error, reading():
            pass
    finally:
        settings.cache_clear()
    assert f"127.0.0.1:1/none?{options.partition('=')[0]}=***" in str(error.value)
    assert "hunter" not in str(error.value)


def test_a_database_that_is_down_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("FEATURISE_REGISTRY", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    settings.cache_clear()
    try:
        with (
            pytest.raises(RegistryUnavailable, match=r"(?s)me:\*\*\*@127.0.0.1:1.*check FEATURISE_REGISTRY"),
            reading(),
        ):
            pass
    finally:
        settings.cache_clear()
