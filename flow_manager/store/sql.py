"""The store in one SQLite file: a connection that writes, another that reads, so that neither waits for the other."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from types import TracebackType

from flow_manager.errors import FlowManagerError, SettingsRefused
from flow_manager.store import faults, meta, migrations, schema
from flow_manager.store.activity import SqlActivity
from flow_manager.store.flows import SqlFlows
from flow_manager.store.outbox import SqlOutbox
from flow_manager.store.replies import SqlReplies
from flow_manager.store.session import Session

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SqlStore:
    """Implements `store.base.Store`.

    Durability: whatever a call has acknowledged survives a crash of this process; after a power cut the last moments
    before it may be gone (see `session.tune`), and then cursors jump ahead, so that none comes twice.

    `boot` names the current boot of the machine; it is read from the kernel unless a test gives one.
    """

    def __init__(self, path: Path, *, boot: str | None = None) -> None:
        self.path = path
        self._writer = Session(path)
        self._reader = Session(path, read_only=True)
        self.flows = SqlFlows(self._writer, self._reader)
        self.replies = SqlReplies(self._writer, self._reader)
        self.outbox = SqlOutbox(self._writer, self._reader)
        self.activity = SqlActivity(
            self._writer, self._reader, new_stream=lambda: secrets.token_hex(8), boot=boot or _boot_id()
        )
        self._is_open = False

    async def __aenter__(self) -> SqlStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """:raises SettingsRefused: not a database, another program's, a newer version's, unreadable; with the remedy."""
        schema.prepare_file(self.path)
        try:
            await self._writer.open()
            await self._bring_up_to_date()
            await self._reader.open()
            await self.activity.open()
        except BaseException as exc:
            await self._close_sessions()
            if isinstance(exc, FlowManagerError | sqlite3.Error | OSError):
                raise faults.refusal(_root(exc), self.path) from exc
            raise
        self._is_open = True

    async def close(self) -> None:
        """Write everything to the disk and end both threads. May be called twice."""
        if self._is_open:
            self._is_open = False
            try:
                await self.activity.close()
            except FlowManagerError:
                # A full disk must not keep the service from ending; the next start then takes it for a power cut.
                pass
        await self._close_sessions()

    async def ping(self) -> None:
        """Read, and take the write lock; after a failed write, really write. :raises SystemFailure: it can't be done."""
        await self._reader.run(lambda connection: meta.get(connection, meta.STREAM))
        if self._writer.last_write_failed:
            # Taking the lock alone would say "well" on a full disk.
            await self._writer.write(lambda connection: meta.put(connection, meta.PROBE, "1"))
        else:
            await self._writer.write(lambda connection: None)

    async def _bring_up_to_date(self) -> None:
        state = await self._writer.run(lambda connection: schema.examine(connection, self.path))
        if state == "empty":
            await self._writer.run(schema.create)
        elif state == "old":
            try:
                await self._writer.run(lambda connection: migrations.upgrade(self.path))
            except Exception as exc:
                raise SettingsRefused(
                    f"state_dir: {self.path} could not be brought up to date ({type(exc).__name__}); it is as it was: "
                    "run the version that wrote it, or move it away"
                ) from exc

    async def _close_sessions(self) -> None:
        # The reader first: whichever closes last writes the log back into the file, and the reader may not write.
        try:
            await self._reader.close()
        finally:
            await self._writer.close()


def _root(error: BaseException) -> BaseException:
    """What SQLite itself said, where one of our errors stands for it."""
    return error.__cause__ if isinstance(error, FlowManagerError) and error.__cause__ is not None else error


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
