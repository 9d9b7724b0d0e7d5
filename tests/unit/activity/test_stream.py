from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flow_manager.activity import stream as stream_module
from flow_manager.activity.redact import MASK, Masker
from flow_manager.activity.retention import PRUNE_EVERY_SECONDS
from flow_manager.activity.stream import MAX_BATCH, ActivityStream
from flow_manager.errors import DiskFull, Internal, QueueFull, ShuttingDown
from flow_manager.settings.models import ActivitySettings
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.store.sql import SqlStore
from flow_manager.testing.clock import FakeClock
from flow_manager.util.clock import SystemClock

Draft = Callable[..., ActivityDraft]
Make = Callable[..., ActivityStream]
FULL = DiskFull("the disk is full")


class Heard:
    """A listener that remembers, and can be waited for."""

    def __init__(self, stream: ActivityStream) -> None:
        self.entries: list[StoredActivity] = []
        self._news = asyncio.Event()
        stream.listen(self)

    def __call__(self, batch: Sequence[StoredActivity]) -> None:
        self.entries += batch
        self._news.set()

    @property
    def types(self) -> list[str]:
        return [item.entry.type for item in self.entries]

    async def until(self, count: int) -> list[StoredActivity]:
        async with asyncio.timeout(10):
            while len(self.entries) < count:
                self._news.clear()
                await self._news.wait()
        return self.entries


async def test_an_entry_is_stored_before_anybody_hears_of_it(stream: ActivityStream, draft: Draft) -> None:
    heads: list[int] = []
    heard = Heard(stream)
    stream.listen(lambda batch: heads.append(stream.head))
    stored = await stream.add(draft())
    assert heard.entries == [stored] == await stream.read(limit=10)
    assert heads == [stream.head] == [stored.entry.cursor] == [1]
    assert stored.entry.stream == stream.stream


async def test_entries_that_come_during_a_transaction_share_the_next_one(
    stream: ActivityStream, store: Any, draft: Draft
) -> None:
    store.may_append.clear()
    futures = [stream.add(draft(message="first"))]
    await store.appending.wait()
    futures += [stream.add(draft(message=str(n))) for n in range(MAX_BATCH + 20)]
    store.may_append.set()
    stored = await asyncio.gather(*futures)
    assert store.batches == [1, MAX_BATCH, 20]
    assert [item.entry.cursor for item in stored] == list(range(1, MAX_BATCH + 22))


async def test_what_was_added_before_open_is_stored_once_it_opens(make_stream: Make, draft: Draft) -> None:
    stream = make_stream()
    future = stream.add(draft())
    await stream.open()
    assert (await future).entry.cursor == 1


async def test_a_stream_opened_again_goes_on_from_the_stores_head(make_stream: Make, draft: Draft) -> None:
    first = make_stream()
    await first.open()
    await first.add(draft())
    await first.close()
    second = make_stream()
    await second.open()
    assert second.head == 1
    assert (await second.add(draft())).entry.cursor == 2


async def test_entries_are_masked_before_they_are_stored(make_stream: Make, draft: Draft) -> None:
    masker = Masker()
    masker.add_secret("hunter22")
    stream = make_stream(masker=masker)
    await stream.open()
    stored = await stream.add(draft(message="it said hunter22", details={"password": "x", "say": "hunter22"}))
    assert stored.entry.message == f"it said {MASK}"
    assert stored.entry.details == {"password": MASK, "say": MASK}
    assert await stream.read(limit=1) == [stored]


async def test_a_listener_that_raises_stops_neither_the_stream_nor_the_others(
    stream: ActivityStream, draft: Draft
) -> None:
    def broken(batch: Sequence[StoredActivity]) -> None:
        raise RuntimeError("listener")

    stream.listen(broken)
    heard = Heard(stream)
    await stream.add(draft())
    await stream.add(draft())
    assert [item.entry.cursor for item in heard.entries] == [1, 2]
    stream.unlisten(heard)
    stream.unlisten(heard)
    await stream.add(draft())
    assert len(heard.entries) == 2


async def test_a_cancelled_wait_for_an_entry_does_not_cancel_the_entry(stream: ActivityStream, draft: Draft) -> None:
    heard = Heard(stream)
    stream.add(draft()).cancel()
    await stream.add(draft())
    assert len(heard.entries) == 2


async def test_closing_stores_what_waits(make_stream: Make, store: Any, draft: Draft) -> None:
    stream = make_stream()
    await stream.open()
    futures = [stream.add(draft()) for _ in range(MAX_BATCH * 3)]
    await stream.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert len(await store.read(limit=10_000)) == MAX_BATCH * 3
    with pytest.raises(ShuttingDown):
        await stream.add(draft())
    await stream.close()


async def test_closing_without_opening_fails_what_waits(make_stream: Make, draft: Draft) -> None:
    stream = make_stream()
    future = stream.add(draft())
    await stream.close()
    with pytest.raises(ShuttingDown):
        await future


async def test_closing_while_the_disk_is_full_ends_at_once(make_stream: Make, store: Any, draft: Draft) -> None:
    stream = make_stream(first_retry=60)
    await stream.open()
    store.failure = FULL
    future = stream.add(draft())
    await store.failed.wait()
    async with asyncio.timeout(2):
        await stream.close()
    with pytest.raises(DiskFull):
        await future


async def test_closing_while_the_store_hangs_ends_in_bounded_time(
    make_stream: Make, store: Any, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FLUSH_SECONDS", 0.05)
    stream = make_stream()
    await stream.open()
    store.may_append.clear()
    futures = [stream.add(draft()), stream.add(draft())]
    await store.appending.wait()
    async with asyncio.timeout(2):
        await stream.close()
    for future in futures:
        with pytest.raises(ShuttingDown):
            await future


async def test_on_a_full_disk_waiters_are_told_at_once_and_nothing_is_lost(
    stream: ActivityStream, store: Any, draft: Draft
) -> None:
    heard = Heard(stream)
    store.failure = FULL
    first = stream.add(draft(message="1"))
    with pytest.raises(DiskFull):
        await first
    with pytest.raises(DiskFull):  # not after the next try: now
        await asyncio.wait_for(stream.add(draft(message="2", tenant="b")), 1)
    assert stream.outage is FULL and heard.entries == []
    store.failure = None
    await heard.until(4)
    assert [item.entry.message for item in heard.entries[:2]] == ["1", "2"]
    recovered = heard.entries[2:]
    assert {(item.tenant, item.entry.type) for item in recovered} == {
        ("default", "operation_recovered"),
        ("b", "operation_recovered"),
    }
    assert "the disk is full" in recovered[0].entry.message
    assert stream.outage is None
    assert (await stream.add(draft())).entry.cursor == 5


async def test_entries_that_wait_behind_a_failing_batch_are_told_too(
    stream: ActivityStream, store: Any, draft: Draft
) -> None:
    store.may_append.clear()
    stream.add(draft())
    await store.appending.wait()
    behind = stream.add(draft())
    store.failure = FULL
    store.may_append.set()
    with pytest.raises(DiskFull):
        await asyncio.wait_for(behind, 1)


async def test_during_a_long_outage_memory_is_bounded_and_what_is_dropped_is_told(
    make_stream: Make, store: Any, draft: Draft
) -> None:
    stream = make_stream(soft_limit=5, hard_limit=8)
    await stream.open()
    heard = Heard(stream)
    store.failure = FULL
    with pytest.raises(DiskFull):
        await stream.add(draft(message="in the failing batch"))
    for n in range(20):
        stream.add(draft(type="container_message", message=f"message {n}"))
    for n in range(20):
        stream.add(draft(message=f"start {n}"))
    assert stream.waiting == 8
    with pytest.raises(QueueFull):
        await stream.add(draft())
    store.failure = None
    entries = await heard.until(11)
    assert [item.entry.message for item in entries[:9]] == [
        "in the failing batch", *(f"message {n}" for n in range(5)), *(f"start {n}" for n in range(3)),
    ]  # fmt: skip
    (dropped,) = (item.entry for item in entries if item.entry.type == "operation_failed")
    assert dropped.details == {
        "operation": "store_activity",
        "dropped": {"container_message": 15, "container_started": 18},
    }
    assert heard.types.count("operation_recovered") == 1


async def test_a_fault_of_ours_costs_its_batch_not_the_stream(stream: ActivityStream, store: Any, draft: Draft) -> None:
    heard = Heard(stream)
    store.failure = RuntimeError("a bug")
    with pytest.raises(Internal):
        await stream.add(draft())
    (note,) = await heard.until(1)
    assert note.entry.details["dropped"] == {"container_started": 1}
    assert (await stream.add(draft())).entry.cursor == 2


async def test_a_failure_that_nobody_awaits_is_silent(
    stream: ActivityStream, store: Any, draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    store.failure = FULL
    stream.add(draft())
    await store.failed.wait()
    stream.add(draft())
    store.failure = None
    await Heard(stream).until(3)
    await stream.add(draft())  # the sink lets go of the batch before
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_old_entries_are_pruned_at_open_by_time_and_by_count(make_stream: Make, store: Any, draft: Draft) -> None:
    clock = FakeClock()
    stream = make_stream(ActivitySettings(keep=50, keep_for=3600), clock=clock)
    await store.append([draft(timestamp=clock.now())] * 10)
    clock.advance(7200)
    await stream.open()
    await stream.add(draft(timestamp=clock.now()))
    assert await stream.floor() == 10

    heard = Heard(stream)
    for _ in range(150):
        stream.add(draft(timestamp=clock.now()))
    await heard.until(150)
    await stream.add(draft(timestamp=clock.now()))
    assert await stream.floor() > 100  # by count

    clock.advance(PRUNE_EVERY_SECONDS + 7200)
    await stream.add(draft(timestamp=clock.now()))
    await stream.add(draft(timestamp=clock.now()))
    assert len(await stream.read(limit=1000)) == 2  # by time


async def test_a_failing_prune_is_no_outage(
    stream: ActivityStream, store: Any, draft: Draft, make_stream: Make
) -> None:
    async def fail(**_: Any) -> int:
        raise FULL

    store.prune = fail
    second = make_stream()
    await second.open()
    await second.add(draft())
    assert second.outage is None


async def test_with_a_real_file_that_may_not_grow_nothing_is_lost_and_it_heals(tmp_path: Path, draft: Draft) -> None:
    async with SqlStore(tmp_path / "small.db") as real:
        await real._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 60"))
        stream = ActivityStream(real.activity, ActivitySettings(), SystemClock(), first_retry=0.01)
        await stream.open()
        heard = Heard(stream)
        futures = [stream.add(draft(message=f"{n} " + "x" * 800)) for n in range(MAX_BATCH)]
        with pytest.raises(DiskFull):
            await futures[-1]
        assert await stream.read(limit=10) == []
        await real._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 6000"))
        entries = await heard.until(MAX_BATCH + 1)
        assert [item.entry.message.split()[0] for item in entries[:-1]] == [str(n) for n in range(MAX_BATCH)]
        assert heard.types[-1] == "operation_recovered"
        await stream.close()


async def test_figures(stream: ActivityStream, draft: Draft) -> None:
    begun = time.perf_counter()
    for _ in range(100):
        await stream.add(draft())
    lone = (time.perf_counter() - begun) / 100
    begun = time.perf_counter()
    await asyncio.gather(*(stream.add(draft()) for _ in range(5000)))
    flood = (time.perf_counter() - begun) / 5000
    print(f"a lone entry: {lone * 1e6:.0f} µs; 5,000 at once: {flood * 1e6:.1f} µs each")
