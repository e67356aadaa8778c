"""Which state of a batch the catalogue in the bucket shows: a batch whose outcomes have changed since is written again.

Processes of the version before leave the column empty in what they add, which says that nothing is known.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.add_column("batches", sa.Column("state", sa.Text(), nullable=True))
