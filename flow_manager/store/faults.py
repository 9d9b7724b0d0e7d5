"""What SQLite says, in our words: `DiskFull`, `Internal`, or, while opening, a `SettingsRefused` with its remedy."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from flow_manager.errors import DiskFull, FlowManagerError, Internal, SettingsRefused
from flow_manager.util.ids import new_short_id

# An extended result code's low byte is the primary one (https://www.sqlite.org/rescode.html).
_PRIMARY = 0xFF
# Below this many free bytes a failed write is taken for a full disk: one page of the file and one of the log's index.
_NO_ROOM = 64 * 1024


def primary_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


def translate(error: BaseException, path: Path) -> FlowManagerError:
    """The error for whoever called the store; never holds a value that was to be stored."""
    code = primary_code(error)
    # Where the index of the write-ahead log can't grow, SQLite says "I/O error" though the disk is merely full.
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return DiskFull("the disk that holds the manager's state is full")
    reasons = {
        sqlite3.SQLITE_BUSY: "another program holds the store's lock",
        sqlite3.SQLITE_IOERR: "the disk has a fault",
        sqlite3.SQLITE_CORRUPT: "the file is damaged",
        sqlite3.SQLITE_NOTADB: "the file is not a database any more",
        sqlite3.SQLITE_READONLY: "the file can't be written",
    }
    reason = reasons.get(code, "") if code is not None else ""
    return Internal(
        "the store failed" + (f": {reason}" if reason else ""),
        error_id=new_short_id("err"),
        reason=getattr(error, "sqlite_errorname", type(error).__name__),
    )


def refusal(error: BaseException, path: Path) -> SettingsRefused:
    """Why the store can't be opened, and what the operator can do."""
    code = primary_code(error)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return damaged(path)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return SettingsRefused(f"state_dir: the disk that holds {path} is full: make room there")
    if code == sqlite3.SQLITE_BUSY:
        return SettingsRefused(f"state_dir: another program has locked {path}: end it, or choose another state_dir")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SettingsRefused(
        f"state_dir: {path} can't be opened ({reason}): give this user the right to read and write it and its folder, "
        "or choose another state_dir"
    )


def damaged(path: Path) -> SettingsRefused:
    return SettingsRefused(
        f"state_dir: {path} is not a database, or is damaged: move it away (with its -wal and -shm files) or restore "
        "a copy; flows that run are found again by their labels, the activity log begins anew"
    )


def foreign(path: Path) -> SettingsRefused:
    return SettingsRefused(
        f"state_dir: {path} is another program's database: move it away, or choose another state_dir"
    )


def newer(path: Path, found: str, known: str) -> SettingsRefused:
    return SettingsRefused(
        f"state_dir: {path} was written by a newer flow-manager (schema {found}, this one knows {known}): "
        "run that version, or move the file away"
    )


def _disk_is_full(path: Path) -> bool:
    try:
        state = os.statvfs(path.parent)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < _NO_ROOM
