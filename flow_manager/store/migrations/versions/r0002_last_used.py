"""When a flow was last used: its idle deadline survives a restart of the manager.

The table is copied (batch mode), not altered in place: SQLite would append the column behind the constraints, and a
migrated file would read differently from a fresh one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("flows", recreate="always") as batch:
        batch.add_column(sa.Column("last_used_at", sa.Integer))
