"""Small facts about the file itself, by key."""

from __future__ import annotations

import sqlite3

from sqlalchemy import bindparam, delete, select

from flow_manager.store.statements import insert_text, text_of
from flow_manager.store.tables import meta

# The activity log's random name, its floor, and the boot during which the file was last open.
STREAM = "stream"
FLOOR = "floor"
OPEN_IN_BOOT = "open_in_boot"
# Written to see whether writing works again.
PROBE = "probe"

_GET = text_of(select(meta.c.value).where(meta.c.key == bindparam("key")))
_PUT = insert_text(meta, or_replace=True)
_DROP = text_of(delete(meta).where(meta.c.key == bindparam("key")))


def get(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute(_GET, {"key": key}).fetchone()
    return None if row is None else row[0]


def put(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute(_PUT, {"key": key, "value": value})


def drop(connection: sqlite3.Connection, key: str) -> None:
    connection.execute(_DROP, {"key": key})
