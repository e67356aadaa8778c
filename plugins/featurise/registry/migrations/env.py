"""Alembic's entry: runs the migrations on the connection that `featurise.registry.schema` hands over."""

from alembic import context

from featurise.registry.models import Base
from featurise.registry.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSION_TABLE
)
context.run_migrations()
