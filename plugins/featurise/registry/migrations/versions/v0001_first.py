"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:  # long: every table, one after the other
    """Apply this step."""
    op.create_table(
        "feature_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("backbone", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("weights_uri", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.Text(), nullable=False),
        sa.Column("box_rule", sa.JSON(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("synthetic", sa.Boolean(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "batches",
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("listed_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("feature_set_id", "batch"),
    )
    op.create_table(
        "claims",
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("acquired_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("feature_set_id", "batch"),
    )
    op.create_table(
        "gpu_attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("shard", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("launcher", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("images_per_second", sa.Double(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("gpu_attempts_by_shard", "gpu_attempts", ["feature_set_id", "batch", "run_id", "shard"])
    op.create_table(
        "rejects",
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.Column("registered_at", MOMENT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("feature_set_id", "key", "etag"),
    )
    op.create_index("rejects_by_batch", "rejects", ["feature_set_id", "batch"])
    op.create_index("rejects_by_id", "rejects", ["feature_set_id", "image_id"])
    op.create_table(
        "shards",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("index_uri", sa.Text(), nullable=False),
        sa.Column("rejects_uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("rejects", sa.Integer(), nullable=False),
        sa.Column("statistics", sa.JSON(), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("published_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("feature_set_id", "batch", "run_id", "name"),
        sa.UniqueConstraint("uri"),
    )
    op.create_table(
        "images",
        sa.Column("feature_set_id", sa.Integer(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("batch", KEY, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.Column("registered_at", MOMENT, nullable=False),
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("boxes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["shard_id"], ["shards.id"]),
        sa.PrimaryKeyConstraint("feature_set_id", "key", "etag"),
    )
    op.create_index("images_by_batch", "images", ["feature_set_id", "batch"])
    op.create_index("images_by_id", "images", ["feature_set_id", "image_id"])
    op.create_index("images_by_shard", "images", ["shard_id"])
