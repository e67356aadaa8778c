"""Alerts that people were told, each once; and what is still to be sent where."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.Column("closed_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    still = sa.text("closed_at IS NULL")
    op.create_index(
        "alerts_open", "alerts", ["kind", "subject"], unique=True, postgresql_where=still, sqlite_where=still
    )
    op.create_table(
        "alert_messages",
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("over", sa.Boolean(), nullable=False),
        sa.Column("claimed_until", MOMENT, nullable=True),
        sa.Column("sent_at", MOMENT, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("alert_id", "channel", "over"),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.id"]),
    )
    unsent = sa.text("sent_at IS NULL")
    op.create_index(
        "alert_messages_unsent", "alert_messages", ["alert_id"], postgresql_where=unsent, sqlite_where=unsent
    )
