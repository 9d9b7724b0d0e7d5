"""Flows, activity, replies and meta.

Written out, not made from `tables.metadata`: a step must do the same for ever, whatever the tables become.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "flows",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("runtime", sa.Text, nullable=False),
        sa.Column("runtime_id", sa.Text),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("adopted", sa.Boolean, nullable=False),
        sa.Column("request_key", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_flows"),
    )
    op.create_table(
        "activity",
        sa.Column("cursor", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("container_id", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("timestamp", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_activity_tenant", "activity", ["tenant"])
    op.create_index("ix_activity_container_id", "activity", ["container_id"])
    op.create_table(
        "replies",
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("reply", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("principal", "request_id", name="pk_replies"),
    )
    op.create_index("ix_replies_created_at", "replies", ["created_at"])
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
