from __future__ import annotations

import asyncio
from collections.abc import Callable

from flow_manager.activity.backlog import Backlog, Waiting
from flow_manager.store.base import ActivityDraft

Draft = Callable[..., ActivityDraft]


async def put(backlog: Backlog, draft: ActivityDraft) -> bool:
    if backlog.takes(draft):
        backlog.put(Waiting(draft, asyncio.get_running_loop().create_future()))
        return True
    return False


async def test_what_is_put_back_comes_first_and_in_order(draft: Draft) -> None:
    backlog = Backlog()
    for n in range(5):
        assert await put(backlog, draft(message=str(n)))
    batch = backlog.take(2)
    backlog.put_back(batch)
    assert [item.draft.message for item in backlog] == list("01234")
    assert [item.draft.message for item in backlog.take(99)] == list("01234")
    assert len(backlog) == 0


async def test_numerous_kinds_are_dropped_first_then_all_and_each_is_counted(draft: Draft) -> None:
    backlog = Backlog(soft_limit=2, hard_limit=4)
    taken = [await put(backlog, draft(type="container_message")) for _ in range(3)]
    taken += [await put(backlog, draft()) for _ in range(3)]
    taken.append(await put(backlog, draft(tenant="b")))
    assert taken == [True, True, False, True, True, False, False]
    assert backlog.has_dropped
    assert backlog.take_dropped() == {
        "default": {"container_message": 1, "container_started": 1},
        "b": {"container_started": 1},
    }
    assert not backlog.has_dropped
