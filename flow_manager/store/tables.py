"""The tables, as SQLAlchemy Core knows them. A change here needs a migration: a test compares the two.

Moments are integers: microseconds since 1970, UTC. JSON is text.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Boolean, Column, Index, Integer, MetaData, Table, Text

# Written into the file's header ("flow" in ASCII), so that another program's database is never taken for ours.
APPLICATION_ID = 0x666C6F77

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s", "pk": "pk_%(table_name)s"},
)

flows = Table(
    "flows",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("runtime_id", Text),
    Column("config", Text, nullable=False),
    Column("desired", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("phase", Text, nullable=False),
    Column("adopted", Boolean, nullable=False),
    Column("request_key", Text),
    Column("last_used_at", Integer),
)

# AUTOINCREMENT, not a plain rowid: without it SQLite gives the highest cursor again once that row was pruned.
activity = Table(
    "activity",
    metadata,
    Column("cursor", Integer, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("container_id", Text),
    Column("name", Text),
    Column("actor", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("timestamp", Integer, nullable=False),
    sqlite_autoincrement=True,
)
# An index on one column ends with the cursor by itself in SQLite, so that "entries of X after N" is one range of it.
Index(None, activity.c.tenant)
Index(None, activity.c.container_id)

replies = Table(
    "replies",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
)
Index(None, replies.c.created_at)

# Messages that wait for flows that are away. AUTOINCREMENT: a place is never given again, so that the order stays true.
outbox = Table(
    "outbox",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=True),
    Column("flow_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    sqlite_autoincrement=True,
)
Index(None, outbox.c.flow_id)
Index(None, outbox.c.created_at)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """An aware datetime as the tables keep it, exactly. :raises TypeError: for a naive one."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
