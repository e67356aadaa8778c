"""What monitoring asks for: indexes over the attempts, what the driver said, incidents, and nodes held back.

Processes of the version before go on working beside it: new columns may be empty, and nothing else changes. A million
attempts are indexed in seconds, in which no attempt can begin or end.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
INDEXES = {
    "gpu_attempts_by_reason": ["reason", "id"],
    "gpu_attempts_by_node": ["node", "id"],
    "gpu_attempts_by_batch": ["batch", "id"],
    "gpu_attempts_by_run": ["run_id", "id"],
    "gpu_attempts_by_start": ["started_at", "feature_set_id", "reason", "node"],
}


def upgrade() -> None:
    """Apply this step."""
    op.add_column("gpu_attempts", sa.Column("map_index", sa.Integer(), nullable=True))
    op.add_column("gpu_attempts", sa.Column("fault", sa.Text(), nullable=True))
    for name, columns in INDEXES.items():
        op.create_index(name, "gpu_attempts", columns)
    _partial("gpu_attempts_open", "gpu_attempts", ["id"], "ended_at IS NULL", unique=False)
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "subject", "detail", "advice")),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.Column("closed_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _partial("incidents_open", "incidents", ["kind", "subject"], "closed_at IS NULL", unique=True)
    op.create_table(
        "node_holds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=True),
        sa.Column("held_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("held_at", MOMENT, nullable=False),
        sa.Column("retry_at", MOMENT, nullable=True),
        sa.Column("released_at", MOMENT, nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("release_note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    _partial("node_holds_open", "node_holds", ["node"], "released_at IS NULL", unique=True)


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
