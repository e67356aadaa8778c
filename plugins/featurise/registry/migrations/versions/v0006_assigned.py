"""When an attempt's pod had a node: what it waited for is no time of a GPU.

Processes of the version before leave the column empty, which says that nothing is known.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.add_column("gpu_attempts", sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=True))
