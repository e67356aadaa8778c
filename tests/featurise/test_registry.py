"""The registry's schema, the same on SQLite and PostgreSQL."""

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from featurise.registry import schema, session, shards
from featurise.registry.models import Base
from featurise.registry.session import RegistryUnavailable, reading
from featurise.settings import settings


def test_migrations_make_the_tables_of_the_models(registry):
    with session.engine(registry).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(registry):
    assert schema.migrate(session.engine(registry)) == schema.migrate(session.engine(registry))


def test_more_addresses_are_looked_up_than_a_statement_takes(registry):
    with reading() as connection:
        assert shards.known(connection, [f"s3://features/{number}.h5" for number in range(70_000)]) == set()


def test_a_registry_without_tables_names_the_command(empty_registry):
    with pytest.raises(schema.SchemaMismatch, match="run `featurise migrate`"), reading():
        pass


def test_a_newer_schema_is_refused_by_readers_and_migrations(registry):
    with session.engine(registry).begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    for use in (schema.check, schema.migrate):
        with pytest.raises(schema.SchemaMismatch, match=r"has schema 9999.*upgrade this installation"):
            use(session.engine(registry))


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
