"""Whose files lie where: the registry's identity, its locations, and what a run is about to publish.

Processes of the version before, which have looked at the schema once, go on working beside it: nothing that they read
or write changes, and what is new has a default.
"""

import datetime
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply this step."""
    # Feature sets first, then shards: the order in which runs lock them.
    op.add_column("feature_sets", sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("shards", sa.Column("record_uri", sa.Text(), nullable=True))
    registry = op.create_table(
        "registry",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(registry, [{"id": str(uuid.uuid4()), "created_at": datetime.datetime.now(datetime.UTC)}])
    op.create_table(
        "locations",
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("claimed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("uri"),
    )
    op.create_table(
        "publications",
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("shard", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("uri"),
    )
    op.create_index("publications_by_batch", "publications", ["feature_set_id", "batch"])
