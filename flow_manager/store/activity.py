"""The activity log in SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from flow_manager.errors import SystemFailure
from flow_manager.store import activity_sql as sql
from flow_manager.store import meta
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.store.session import Session
from flow_manager.store.tables import to_micros
from flow_manager.util.strict_json import dumps

# Entries removed in one transaction: an append waits for at most one of these (some 10 ms), not for a whole clean-up.
PRUNE_SLICE = 2_000
# How far cursors jump after a power cut: more than the entries that can have been lost with it.
JUMP_AFTER_POWER_CUT = 1_000_000


class SqlActivity:
    """Implements `store.base.ActivityStore`. `stream` is known once the store is open."""

    def __init__(self, writer: Session, reader: Session, *, new_stream: Callable[[], str], boot: str) -> None:
        self._writer = writer
        self._reader = reader
        self._new_stream = new_stream
        self._boot = boot
        self.stream = ""
        self._head = 0
        self._floor = 0
        self._pruning = asyncio.Lock()

    async def open(self) -> None:
        self.stream, self._head, self._floor = await self._writer.write(self._begin)

    async def close(self) -> None:
        """Say that nothing was lost: the store's last connection writes everything to the disk when it closes."""
        await self._writer.write(lambda connection: meta.drop(connection, meta.OPEN_IN_BOOT))

    async def append(self, drafts: Sequence[ActivityDraft]) -> list[StoredActivity]:
        if not drafts:
            return []

        def work(connection: sqlite3.Connection) -> list[StoredActivity]:
            # Cursors are counted here, inside the transaction that holds the write lock, so that each is known without
            # asking for every row, and a rolled-back batch gives its own back before anybody has seen them.
            cursor = _head(connection)
            rows: list[dict[str, Any]] = []
            stored: list[StoredActivity] = []
            for draft in drafts:
                cursor += 1
                micros = to_micros(draft.timestamp or datetime.now(UTC))
                rows.append(sql.row_of(cursor, draft, micros))
                stored.append(sql.entry_of_draft(self.stream, cursor, draft, micros))
            connection.executemany(sql.INSERT, rows)
            return stored

        stored = await self._writer.write(work)
        self._head = stored[-1].entry.cursor
        return stored

    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]:
        """Those between `after` and `before`, both outside. `types=[]` matches nothing, None everything."""
        text = sql.select_text(
            after=after is not None,
            before=before is not None,
            tenant=tenant is not None,
            container=container_id is not None,
            types=types is not None,
            newest_first=newest_first,
        )
        given = {"after": after, "before": before, "tenant": tenant, "container_id": container_id, "limit": limit}
        parameters = {name: value for name, value in given.items() if value is not None}
        if types is not None:
            parameters["types"] = dumps(list(types))
        stream = self.stream
        return await self._reader.run(
            lambda connection: [sql.entry_of_row(stream, row) for row in connection.execute(text, parameters)]
        )

    async def head(self) -> int:
        return self._head

    async def floor(self) -> int:
        return self._floor

    async def prune(self, *, older_than: datetime | None, keep: int | None) -> int:
        """Only ever removes the oldest: what stays is one piece, so that a cursor at or above the floor misses nothing.

        By age it stops at the first entry that is young enough, also if the clock had once jumped and older times follow.
        """
        moment = None if older_than is None else to_micros(older_than)
        async with self._pruning:
            cut = await self._reader.run(lambda connection: _cut(connection, moment, keep))
            floor, removed = self._floor, 0
            # Said before it is done: a reader that finds entries gone and then asks for the floor must not be told the
            # one of before, which would make a silent hole of the cut.
            self._floor = max(floor, cut)
            try:
                while floor < cut:
                    count, floor = await self._writer.write(lambda connection: _remove_slice(connection, cut))
                    removed += count
            except SystemFailure:
                self._floor = floor  # that slice was not removed
                raise
            return removed

    def _begin(self, connection: sqlite3.Connection) -> tuple[str, int, int]:
        stream = meta.get(connection, meta.STREAM)
        if stream is None:
            stream = self._new_stream()
            meta.put(connection, meta.STREAM, stream)
        head = _head(connection)
        last_boot = meta.get(connection, meta.OPEN_IN_BOOT)
        if last_boot is not None and last_boot != self._boot:
            # The machine went down while the file was open: the last entries, which clients have seen, may be lost.
            # Their cursors must not come again for other entries, or a client that resumes there would miss those.
            head += JUMP_AFTER_POWER_CUT
            if connection.execute(sql.SET_HEAD, {"head": head}).rowcount == 0:
                connection.execute(sql.FIRST_HEAD, {"head": head})
        meta.put(connection, meta.OPEN_IN_BOOT, self._boot)
        return stream, head, int(meta.get(connection, meta.FLOOR) or 0)


def _head(connection: sqlite3.Connection) -> int:
    row = connection.execute(sql.HEAD).fetchone()
    return 0 if row is None else int(row[0])


def _cut(connection: sqlite3.Connection, moment: int | None, keep: int | None) -> int:
    """The highest cursor that must go, 0 for none."""
    cut = 0
    if moment is not None:
        row = connection.execute(sql.FIRST_YOUNG, {"moment": moment}).fetchone()
        cut = _head(connection) if row is None else row[0] - 1
    if keep is not None:
        (count,) = connection.execute(sql.COUNT).fetchone()
        if count > keep:
            (cursor,) = connection.execute(sql.NTH_OLDEST, {"n": count - keep - 1}).fetchone()
            cut = max(cut, cursor)
    (oldest,) = connection.execute(sql.OLDEST).fetchone()
    return 0 if oldest is None or cut < oldest else cut


def _remove_slice(connection: sqlite3.Connection, cut: int) -> tuple[int, int]:
    row = connection.execute(sql.NTH_OLDEST, {"n": PRUNE_SLICE - 1}).fetchone()
    here = cut if row is None else min(cut, row[0])
    count = connection.execute(sql.DELETE_UP_TO, {"cut": here}).rowcount
    meta.put(connection, meta.FLOOR, str(here))
    return count, here
