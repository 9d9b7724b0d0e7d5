"""Is this file ours, and is it up to date? Runs on the store's own connection."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Literal

from sqlalchemy.schema import CreateIndex, CreateTable

from flow_manager.errors import SettingsRefused
from flow_manager.store import faults
from flow_manager.store.migrations import HEAD, REVISIONS, VERSION_TABLE
from flow_manager.store.session import in_transaction
from flow_manager.store.statements import text_of
from flow_manager.store.tables import APPLICATION_ID, metadata

State = Literal["empty", "current", "old"]
_PRIVATE = 0o600


def prepare_file(path: Path) -> None:
    """Make the file, and keep other users out: it holds the flows' secrets. SQLite gives -wal and -shm the same mode.

    :raises SettingsRefused: it can't be made or opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Without O_NONBLOCK a named pipe in its place would block the start for ever.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _PRIVATE)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise SettingsRefused(f"state_dir: {path} is not a regular file: move it away")
            if stat.S_IMODE(state.st_mode) != _PRIVATE:
                os.fchmod(descriptor, _PRIVATE)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise faults.refusal(exc, path) from exc


def examine(connection: sqlite3.Connection, path: Path) -> State:
    """:raises SettingsRefused: another program's database, or one of a newer flow-manager."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and application in (0, APPLICATION_ID):
        return "empty"
    if application != APPLICATION_ID or VERSION_TABLE not in tables:
        raise faults.foreign(path)
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
    if row is None:
        return "old"
    revision = str(row[0])
    if revision not in REVISIONS:
        raise faults.newer(path, revision, HEAD)
    return "current" if revision == HEAD else "old"


def create(connection: sqlite3.Connection) -> None:
    """Make today's tables in an empty file, in one transaction and without alembic: a fresh start is quick and whole."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for table in metadata.sorted_tables:
            connection.execute(text_of(CreateTable(table)))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(text_of(CreateIndex(index)))
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (HEAD,))  # noqa: S608

    in_transaction(connection, work)
