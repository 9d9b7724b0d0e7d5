from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import DiskFull
from flow_manager.store import activity_sql
from flow_manager.store.activity import JUMP_AFTER_POWER_CUT, PRUNE_SLICE
from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore

Draft = Callable[..., ActivityDraft]


async def cursors(store: SqlStore, **filters: object) -> list[int]:
    return [item.entry.cursor for item in await store.activity.read(**{"limit": 100_000, **filters})]


async def test_what_append_returns_is_what_is_read_later(store: SqlStore, draft: Draft) -> None:
    stored = await store.activity.append(
        [draft(), draft(container_id=None, name=None, details={"ü": [1, {"b": None}]})]
    )
    assert stored == await store.activity.read(limit=10)
    assert [item.entry.model_dump(mode="json") for item in stored] == [
        item.entry.model_dump(mode="json") for item in await store.activity.read(limit=10)
    ]
    assert stored[0].entry.model_dump(mode="json")["timestamp"] == "2026-01-19T10:30:00.123Z"
    assert stored[0].entry.stream == store.activity.stream


async def test_an_empty_batch_is_nothing(store: SqlStore) -> None:
    assert await store.activity.append([]) == []
    assert await store.activity.head() == 0


async def test_each_filter_alone_and_all_together(store: SqlStore, draft: Draft) -> None:
    await store.activity.append(
        [
            draft(),
            draft(tenant="b"),
            draft(container_id="bbbbbbbbbbbb"),
            draft(type="container_died"),
            draft(tenant="b", type="container_died", container_id="bbbbbbbbbbbb"),
            draft(container_id=None),
        ]
    )
    assert await cursors(store) == [1, 2, 3, 4, 5, 6]
    assert await cursors(store, newest_first=True, limit=2) == [6, 5]
    assert await cursors(store, after=2, before=5) == [3, 4]
    assert await cursors(store, tenant="b") == [2, 5]
    assert await cursors(store, container_id="bbbbbbbbbbbb") == [3, 5]
    assert await cursors(store, types=["container_died", "nonesuch"]) == [4, 5]
    assert await cursors(store, types=[]) == []
    assert await cursors(
        store, tenant="b", container_id="bbbbbbbbbbbb", types=["container_died"], after=1, before=6, newest_first=True
    ) == [5]
    assert await cursors(store, tenant="b' OR 1=1 --") == []


async def test_more_types_than_sqlite_takes_parameters(store: SqlStore, draft: Draft) -> None:
    await store.activity.append([draft()])
    assert await cursors(store, types=[*map(str, range(40_000)), "container_started"]) == [1]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"container"}, "ix_activity_container_id (container_id=? AND rowid>? AND rowid<?)"),
        ({"container", "tenant", "types"}, "ix_activity_container_id (container_id=? AND rowid>? AND rowid<?)"),
        ({"tenant", "types"}, "ix_activity_tenant (tenant=? AND rowid>? AND rowid<?)"),
        ({"types"}, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
async def test_filters_use_their_index_and_sort_nothing(
    store: SqlStore, path: Path, filters: set[str], index: str
) -> None:
    chosen = {name: name in filters for name in ("tenant", "container", "types")}
    text = activity_sql.select_text(after=True, before=True, newest_first=True, **chosen)
    connection = sqlite3.connect(path)
    given = dict.fromkeys(("after", "before", "tenant", "container_id", "types", "limit"), "1")
    plan = " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", given))
    connection.close()
    assert index in plan
    assert "TEMP B-TREE" not in plan


async def test_cursors_go_on_after_a_restart_also_when_everything_was_pruned(path: Path, draft: Draft) -> None:
    async with SqlStore(path, boot="b") as store:
        name = store.activity.stream
        await store.activity.append([draft()] * 5)
        assert await store.activity.prune(older_than=None, keep=0) == 5
    async with SqlStore(path, boot="b") as store:
        assert store.activity.stream == name
        assert (await store.activity.head(), await store.activity.floor()) == (5, 5)
        assert [item.entry.cursor for item in await store.activity.append([draft()])] == [6]


async def test_another_log_has_another_name(tmp_path: Path) -> None:
    async with SqlStore(tmp_path / "a.db") as one, SqlStore(tmp_path / "b.db") as two:
        assert len(one.activity.stream) == 16
        assert one.activity.stream != two.activity.stream


async def test_pruning_by_count_keeps_the_newest_and_moves_the_floor(store: SqlStore, draft: Draft) -> None:
    await store.activity.append([draft()] * 10)
    assert await store.activity.prune(older_than=None, keep=20) == 0
    assert await store.activity.floor() == 0
    assert await store.activity.prune(older_than=None, keep=4) == 6
    assert (await cursors(store), await store.activity.floor()) == ([7, 8, 9, 10], 6)
    assert await store.activity.prune(older_than=None, keep=4) == 0


async def test_pruning_by_age_stops_at_the_first_that_is_young(store: SqlStore, draft: Draft) -> None:
    now = draft().timestamp
    assert now is not None
    ages = [3, 3, 0, 5, 0]  # the clock once stood wrong: the fourth seems older than the first
    await store.activity.append([draft(timestamp=now - timedelta(days=age)) for age in ages])
    assert await store.activity.prune(older_than=now - timedelta(days=1), keep=None) == 2
    assert (await cursors(store), await store.activity.floor()) == ([3, 4, 5], 2)
    assert await store.activity.prune(older_than=now + timedelta(days=1), keep=None) == 3
    assert (await cursors(store), await store.activity.floor()) == ([], 5)


async def test_a_large_clean_up_goes_in_slices_that_let_appends_in(store: SqlStore, draft: Draft) -> None:
    total = PRUNE_SLICE * 3 + 7
    await store.activity.append([draft()] * total)
    pruning = asyncio.create_task(store.activity.prune(older_than=None, keep=3))
    (added,) = await store.activity.append([draft()])
    removed = await pruning
    assert added.entry.cursor == total + 1
    # Counted before the append or after it: both are right.
    assert removed in (total - 3, total - 2)
    assert await cursors(store) == list(range(removed + 1, total + 2))


async def test_the_floor_is_told_before_a_reader_can_find_the_entries_gone(
    store: SqlStore, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.activity.append([draft()] * 10)
    floors: list[int] = []
    write = store._writer.write

    async def observed(work: Any) -> Any:
        floors.append(await store.activity.floor())
        return await write(work)

    monkeypatch.setattr(store._writer, "write", observed)
    await store.activity.prune(older_than=None, keep=4)
    assert floors == [6]


async def test_a_prune_that_fails_moves_no_floor(
    store: SqlStore, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.activity.append([draft()] * 10)

    async def fail(work: Any) -> Any:
        raise DiskFull("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(store._writer, "write", fail)
        await store.activity.prune(older_than=None, keep=4)
    assert (await store.activity.floor(), len(await cursors(store))) == (0, 10)
    assert await store.activity.prune(older_than=None, keep=4) == 6


async def test_after_a_power_cut_no_cursor_comes_twice(path: Path, draft: Draft) -> None:
    store = SqlStore(path, boot="first")
    await store.open()
    await store.activity.append([draft()] * 3)
    await store._close_sessions()  # as if the machine had gone: nobody said that all is written
    async with SqlStore(path, boot="second") as store:
        (entry,) = await store.activity.append([draft()])
        assert entry.entry.cursor == 3 + JUMP_AFTER_POWER_CUT + 1
        assert await store.activity.prune(older_than=None, keep=2) == 2  # counted, not calculated from cursors
        assert await cursors(store) == [3, entry.entry.cursor]
    async with SqlStore(path, boot="third") as store:  # closed well: no jump
        assert await store.activity.head() == entry.entry.cursor


async def test_after_a_crash_of_the_process_alone_cursors_simply_go_on(path: Path, draft: Draft) -> None:
    store = SqlStore(path, boot="same")
    await store.open()
    await store.activity.append([draft()] * 3)
    await store._close_sessions()
    async with SqlStore(path, boot="same") as store:
        assert await store.activity.head() == 3


async def test_a_power_cut_before_the_first_entry_is_no_trouble(path: Path, draft: Draft) -> None:
    store = SqlStore(path, boot="first")
    await store.open()
    await store._close_sessions()
    async with SqlStore(path, boot="second") as store:
        (entry,) = await store.activity.append([draft()])
        assert entry.entry.cursor == JUMP_AFTER_POWER_CUT + 1


WRITER = """
import asyncio, pathlib, sys
from datetime import UTC, datetime
from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore

async def main():
    store = SqlStore(pathlib.Path(sys.argv[1]))
    await store.open()
    n = 0
    while True:
        drafts = []
        for _ in range(n % 7 + 1):
            n += 1
            drafts.append(ActivityDraft("t", "default", None, None, "a", str(n), {"n": n}, datetime.now(UTC)))
        for stored in await store.activity.append(drafts):
            sys.stdout.write(f"{stored.entry.cursor} {stored.entry.message}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


async def test_whatever_was_acknowledged_survives_a_kill_of_the_process(path: Path) -> None:
    acknowledged: dict[int, str] = {}
    for _ in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(300):
            cursor, message = (await writer.stdout.readline()).split()
            acknowledged[int(cursor)] = message.decode()
        writer.send_signal(signal.SIGKILL)
        rest = await writer.stdout.read()
        await writer.wait()
        for line in rest.split(b"\n")[:-1]:
            cursor, message = line.split()
            assert int(cursor) not in acknowledged
            acknowledged[int(cursor)] = message.decode()
    async with SqlStore(path) as store:
        stored = {item.entry.cursor: item.entry.message for item in await store.activity.read(limit=10**9)}
    assert acknowledged.items() <= stored.items()
    assert list(stored) == sorted(stored)
    assert len(acknowledged) >= 900


async def test_figures(store: SqlStore, draft: Draft) -> None:
    for size in (1, 500):
        batch, rounds = [draft()] * size, 200 // size + 5
        begun = time.perf_counter()
        for _ in range(rounds):
            await store.activity.append(batch)
        took = (time.perf_counter() - begun) / rounds
        print(f"append of {size}: {took * 1e6:.0f} µs, {took / size * 1e6:.1f} µs an entry")
