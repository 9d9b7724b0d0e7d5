"""One connection to the file with its own thread: whole pieces of work go over at once, so that nothing comes in between.

Each statement as an `await` of its own would cost a thread hop each, would let other coroutines in between the statements
of a transaction, and a cancelled caller would leave that transaction open. Here a cancelled caller only stops waiting.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite

from flow_manager.errors import ShuttingDown, SystemFailure
from flow_manager.store.faults import translate

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

# How long a call waits for the lock of another program (somebody's `sqlite3` shell, a backup) before it fails.
BUSY_TIMEOUT_SECONDS = 5.0
# The write-ahead log is cut back to this after a burst; SQLite would keep the longest that it ever was.
_WAL_LIMIT_BYTES = 16 * 1024 * 1024
_THREAD_END_SECONDS = 5.0


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection, and work of more than one statement."""

    async def run(self, work: Work[T]) -> T:
        return await self._execute(work, self._conn)  # type: ignore[no-any-return, no-untyped-call]


class Session:
    """`run` gives the work a connection in autocommit mode; `write` wraps it into one transaction."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._connection: _Connection | None = None
        self._thread: threading.Thread | None = None
        self.last_write_failed = False

    async def open(self) -> None:
        """:raises sqlite3.Error: as SQLite words it; nothing is left behind then."""
        connection = _Connection(self._connect, iter_chunk_size=64)
        try:
            await connection
        except BaseException:
            # aiosqlite has told its thread to end, but doesn't wait: it would answer a loop that is closed by then.
            self._join()
            raise
        self._connection = connection

    async def close(self) -> None:
        """Finish what was given, close, and see the thread end. Does nothing when it is closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close()
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc
        finally:
            self._join()

    async def run(self, work: Work[T]) -> T:
        """:raises DiskFull, Internal: what SQLite said. :raises ShuttingDown: it is closed."""
        if self._connection is None:
            raise ShuttingDown("the store is closed")
        try:
            return await self._connection.run(work)
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as exc:
            raise translate(exc, self._path) from exc

    async def write(self, work: Work[T]) -> T:
        """The same in one transaction: all of it is stored, or nothing."""
        try:
            result = await self.run(lambda connection: in_transaction(connection, work))
        except SystemFailure:
            self.last_write_failed = True
            raise
        self.last_write_failed = False
        return result

    def _join(self) -> None:
        """The thread answers just before it ends: without this, "nothing is left" would be true only a moment later."""
        if self._thread is not None:
            self._thread.join(_THREAD_END_SECONDS)

    def _connect(self) -> sqlite3.Connection:
        """Runs in the connection's own thread."""
        self._thread = threading.current_thread()
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        try:
            tune(connection)
            if self._read_only:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


def tune(connection: sqlite3.Connection) -> None:
    """Write-ahead log, so that readers never wait for the writer; `synchronous=NORMAL`.

    NORMAL means: a transaction is handed to the operating system before it counts as stored, and the disk is only waited
    for at checkpoints. A crash of this process loses nothing; a power cut may lose the last moments, never the file.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    # A file that somebody else prepared must not run functions by its schema.
    connection.execute("PRAGMA trusted_schema = OFF")


def in_transaction(connection: sqlite3.Connection, work: Work[T]) -> T:
    # IMMEDIATE: taking the write lock at the first statement can't fail halfway with "locked", as an upgrade could.
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors (disk full among them): a second ROLLBACK would fail.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result
