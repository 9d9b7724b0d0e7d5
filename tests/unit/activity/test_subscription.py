from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_manager.activity.stream import ActivityStream
from flow_manager.activity.subscription import ReplayPlan, begin_replay
from flow_manager.settings.models import ActivitySettings
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.store.sql import SqlStore
from flow_manager.util.clock import SystemClock

Draft = Callable[..., ActivityDraft]


async def collect(plan: ReplayPlan) -> list[int]:
    return [item.entry.cursor async for page in plan.pages() for item in page]


async def fill(stream: ActivityStream, draft: Draft, count: int) -> None:
    await asyncio.gather(*(stream.add(draft()) for _ in range(count)))


async def test_without_a_cursor_nothing_is_replayed(stream: ActivityStream, draft: Draft) -> None:
    await fill(stream, draft, 3)
    plan = begin_replay(stream, after=None)
    assert (await collect(plan), plan.upto, plan.gap, plan.replayed) == ([], 3, False, 0)


async def test_everything_after_the_cursor_comes_in_pages_up_to_the_fixed_head(
    stream: ActivityStream, draft: Draft
) -> None:
    await fill(stream, draft, 10)
    plan = begin_replay(stream, after=2, stream_id=stream.stream, page=3)
    await fill(stream, draft, 5)  # these come live
    sizes = [len(page) async for page in plan.pages()]
    assert sizes == [3, 3, 2]
    assert (plan.replayed, plan.upto, plan.gap) == (8, 10, False)


async def test_at_the_head_there_is_nothing_and_no_gap(stream: ActivityStream, draft: Draft, store: Any) -> None:
    await fill(stream, draft, 3)
    await store.prune(older_than=None, keep=0)
    plan = begin_replay(stream, after=3)
    assert (await collect(plan), plan.gap) == ([], False)


@pytest.mark.parametrize(("after", "stream_id"), [(99, None), (1, "another"), (4, "another")])
async def test_a_cursor_that_is_not_of_this_log_is_a_gap_and_all_is_replayed(
    stream: ActivityStream, draft: Draft, after: int, stream_id: str | None
) -> None:
    await fill(stream, draft, 3)
    plan = begin_replay(stream, after=after, stream_id=stream_id)
    assert (await collect(plan), plan.gap) == ([1, 2, 3], True)


@pytest.mark.parametrize(("after", "gap"), [(0, True), (3, True), (4, False), (5, False)])
async def test_a_cursor_below_what_retention_kept_is_a_gap(
    stream: ActivityStream, draft: Draft, store: Any, after: int, gap: bool
) -> None:
    await fill(stream, draft, 10)
    await store.prune(older_than=None, keep=6)
    plan = begin_replay(stream, after=after)
    assert await collect(plan) == list(range(max(after, 4) + 1, 11))
    assert plan.gap is gap


async def test_retention_that_cuts_during_the_replay_is_a_gap(stream: ActivityStream, draft: Draft, store: Any) -> None:
    await fill(stream, draft, 10)
    plan = begin_replay(stream, after=0, page=3)
    pages = plan.pages()
    first = await anext(pages)
    assert plan.gap is False
    await store.prune(older_than=None, keep=2)
    rest = [item.entry.cursor async for page in pages for item in page]
    assert ([item.entry.cursor for item in first], rest, plan.gap) == ([1, 2, 3], [9, 10], True)


async def test_filters_hold_and_a_gap_of_others_is_a_gap_too(stream: ActivityStream, draft: Draft, store: Any) -> None:
    for tenant, flow, kind in [("a", "x", "t"), ("b", "x", "t"), ("a", "y", "t"), ("a", "x", "u"), ("a", "x", "t")]:
        await stream.add(draft(tenant=tenant, container_id=flow, type=kind))
    plan = begin_replay(stream, after=0, tenant="a", container_id="x", types=["t"], page=1)
    assert (await collect(plan), plan.replayed, plan.gap) == ([1, 5], 2, False)
    await store.prune(older_than=None, keep=4)
    plan = begin_replay(stream, after=0, tenant="b")
    assert (await collect(plan), plan.gap) == ([2], True)  # nobody can know any more whose entry it was


class Subscriber:
    """What a gateway does for a client, and what the client remembers."""

    def __init__(self, stream: ActivityStream, tenant: str | None, types: Sequence[str] | None) -> None:
        self.stream = stream
        self.tenant = tenant
        self.types = types
        self.seen: list[int] = []
        self.last = stream.head
        self.gap = False
        self._live_after: int | None = None

    def matches(self, entry: StoredActivity) -> bool:
        return self.tenant in (None, entry.tenant) and (self.types is None or entry.entry.type in self.types)

    def hear(self, batch: Sequence[StoredActivity]) -> None:
        for entry in batch:
            if self._live_after is not None and entry.entry.cursor > self._live_after and self.matches(entry):
                self._take(entry)

    async def connect(self, page: int) -> None:
        while True:
            plan = begin_replay(
                self.stream,
                after=self.last,
                stream_id=self.stream.stream,
                tenant=self.tenant,
                types=self.types,
                page=page,
            )
            async for entries in plan.pages():
                for entry in entries:
                    self._take(entry)
            self.gap = self.gap or plan.gap
            self.last = plan.upto
            if plan.upto >= self.stream.head:
                break
        self._live_after = plan.upto

    def disconnect(self) -> None:
        self._live_after = None

    def _take(self, entry: StoredActivity) -> None:
        self.seen.append(entry.entry.cursor)
        self.last = entry.entry.cursor


ACTIONS = st.lists(
    st.sampled_from(["add", "add", "burst", "connect", "disconnect", "prune", "settle", "yield"]),
    min_size=15,
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, seed=st.integers(0, 2**16))
def test_every_subscriber_sees_each_matching_entry_once_in_order_or_is_told_of_a_gap(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str], seed: int
) -> None:
    asyncio.run(history(tmp_path_factory.mktemp("history"), actions, random.Random(seed)))


async def history(folder: Path, actions: list[str], rng: random.Random) -> None:
    all_entries: list[StoredActivity] = []
    async with SqlStore(folder / "flow.db") as store:
        stream = ActivityStream(store.activity, ActivitySettings(), SystemClock())
        await stream.open()
        subscribers = [
            Subscriber(stream, None, None),
            Subscriber(stream, "a", None),
            Subscriber(stream, "b", ["t1", "t2"]),
        ]
        stream.listen(all_entries.extend)
        for subscriber in subscribers:
            stream.listen(subscriber.hear)
        connecting: dict[int, asyncio.Task[None]] = {}

        last: asyncio.Future[StoredActivity] | None = None

        def add() -> None:
            nonlocal last
            kind = f"t{rng.randrange(4)}"
            last = stream.add(ActivityDraft(kind, rng.choice("ab"), None, None, "x", "m"))

        for action in actions:
            n = rng.randrange(len(subscribers))
            if action == "add":
                add()
            elif action == "burst":
                for _ in range(rng.randrange(20)):
                    add()
            elif action == "prune":
                await store.activity.prune(older_than=None, keep=rng.randrange(15))
            elif action == "settle" and last is not None:
                await last
            elif action == "yield":
                for _ in range(rng.randrange(8)):
                    await asyncio.sleep(0)
            elif action == "connect" and n not in connecting:
                connecting[n] = asyncio.ensure_future(subscribers[n].connect(rng.randrange(1, 6)))
            elif action == "disconnect" and n in connecting:
                await connecting.pop(n)
                subscribers[n].disconnect()
        await asyncio.gather(*connecting.values())
        await stream.close()
        # At the end everybody comes back once more and must have everything.
        for n, subscriber in enumerate(subscribers):
            if n not in connecting:
                await subscriber.connect(3)
    for subscriber in subscribers:
        matching = [item.entry.cursor for item in all_entries if subscriber.matches(item)]
        assert subscriber.seen == sorted(set(subscriber.seen))
        if subscriber.gap:
            assert set(subscriber.seen) <= set(matching)
        else:
            assert subscriber.seen == matching
