from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flow_manager.store.base import StoredReply
from flow_manager.store.sql import SqlStore

AT = datetime(2026, 1, 19, 10, 30, tzinfo=UTC)
REPLY = StoredReply("alice", "r-1", "f00", {"error": False, "data": {"id": "aaaaaaaaaaaa"}}, AT)


async def test_a_reply_is_found_by_principal_and_request_alone(store: SqlStore) -> None:
    await store.replies.put(REPLY)
    assert await store.replies.get("alice", "r-1") == REPLY
    assert await store.replies.get("bob", "r-1") is None
    assert await store.replies.get("alice", "r-2") is None


async def test_putting_again_replaces(store: SqlStore) -> None:
    await store.replies.put(REPLY)
    await store.replies.put(replace(REPLY, fingerprint="f11"))
    found = await store.replies.get("alice", "r-1")
    assert found is not None and found.fingerprint == "f11"


async def test_pruning_removes_what_is_older_and_says_how_many(store: SqlStore) -> None:
    for hours in range(5):
        await store.replies.put(replace(REPLY, request_id=f"r-{hours}", created_at=AT - timedelta(hours=hours)))
    assert await store.replies.prune(older_than=AT - timedelta(hours=2)) == 2
    assert await store.replies.get("alice", "r-2") is not None
    assert await store.replies.get("alice", "r-3") is None
