from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flow_manager.store.base import FlowRecord
from flow_manager.store.sql import SqlStore

AT = datetime(2026, 1, 19, 10, 30, 0, 123456, tzinfo=UTC)
FLOW = FlowRecord(
    id="aaaaaaaaaaaa",
    name="reports",
    tenant="default",
    runtime="docker",
    runtime_id=None,
    config='{"image":"alpine:3","environment":{"DB_PASSWORD":"hunter2","é":"ü\\n"},"ports":{"80":0}}',
    desired="running",
    created_at=AT,
    phase="creating",
    request_key="alice:1",
)


async def test_a_flow_comes_back_as_it_was_saved_also_after_a_restart(path: Path) -> None:
    adopted = replace(FLOW, id="bbbbbbbbbbbb", created_at=AT - timedelta(hours=1), adopted=True, request_key=None)
    async with SqlStore(path) as store:
        await store.flows.save(FLOW)
        await store.flows.save(adopted)
        assert await store.flows.all() == [adopted, FLOW]  # oldest first
    async with SqlStore(path) as store:
        assert await store.flows.all() == [adopted, FLOW]


async def test_saving_again_replaces(store: SqlStore) -> None:
    await store.flows.save(FLOW)
    changed = replace(FLOW, phase="created", runtime_id="c0ffee", desired="stopped")
    await store.flows.save(changed)
    assert await store.flows.all() == [changed]


async def test_deleting_removes_and_deleting_what_is_gone_is_harmless(store: SqlStore) -> None:
    await store.flows.save(FLOW)
    await store.flows.delete(FLOW.id)
    await store.flows.delete(FLOW.id)
    assert await store.flows.all() == []


async def test_two_flows_of_one_name_are_the_managers_business(store: SqlStore) -> None:
    await store.flows.save(FLOW)
    await store.flows.save(replace(FLOW, id="cccccccccccc"))
    assert len(await store.flows.all()) == 2


async def test_when_many_flows_were_last_used_is_kept_at_once_and_the_rest_of_each_stays(store: SqlStore) -> None:
    other = replace(FLOW, id="dddddddddddd", last_used_at=AT)
    await store.flows.save(FLOW)
    await store.flows.save(other)
    later = AT + timedelta(minutes=5)
    await store.flows.used({FLOW.id: later, "gone": later})
    assert await store.flows.all() == [replace(FLOW, last_used_at=later), other]
