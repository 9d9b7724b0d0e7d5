from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flow_manager.store.base import FlowRecord, StoredMessage
from flow_manager.store.sql import SqlStore

AT = datetime(2026, 1, 19, 10, 30, 0, 123456, tzinfo=UTC)
FLOW, OTHER = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


async def put(store: SqlStore, flow: str, number: int, *, at: datetime = AT) -> StoredMessage:
    return await store.outbox.put(flow, f"k-{number}", {"n": number, "é": ["ü\n", None]}, size=40, at=at)


async def test_messages_keep_their_order_and_survive_a_restart(path: Path) -> None:
    async with SqlStore(path) as store:
        stored = [await put(store, FLOW if n % 2 else OTHER, n) for n in range(6)]
    async with SqlStore(path) as store:
        assert await store.outbox.waiting() == stored
        assert await store.outbox.body(stored[3].place) == {"n": 3, "é": ["ü\n", None]}
        assert [message.place for message in stored] == sorted({message.place for message in stored})


async def test_a_message_that_was_removed_is_gone_and_its_place_is_not_given_again(store: SqlStore) -> None:
    first, second = await put(store, FLOW, 1), await put(store, FLOW, 2)
    await store.outbox.remove([second.place, 999])
    await store.outbox.remove([])
    assert await store.outbox.waiting() == [first]
    assert await store.outbox.body(second.place) is None
    assert (await put(store, FLOW, 3)).place > second.place


async def test_only_what_is_too_old_is_pruned(store: SqlStore) -> None:
    await put(store, FLOW, 1, at=AT - timedelta(days=2))
    kept = await put(store, FLOW, 2)
    assert await store.outbox.prune(older_than=AT - timedelta(days=1)) == 1
    assert await store.outbox.waiting() == [kept]


async def test_a_flows_messages_go_with_it(store: SqlStore) -> None:
    record = FlowRecord(FLOW, "reports", "default", "memory", None, '{"image":"local"}', "running", AT)
    await store.flows.save(record)
    await put(store, FLOW, 1)
    kept = await put(store, OTHER, 2)
    await store.flows.save(record)
    assert len(await store.outbox.waiting()) == 2, "saving again is no removal"
    await store.flows.delete(FLOW)
    assert await store.outbox.waiting() == [kept]
