"""A retried request does nothing twice, also when attempts overlap, and never mistakes another request for a retry."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from flow_manager.containers.repeats import Repeats
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.contract.replies import failure, success
from flow_manager.errors import DiskFull, FlowManagerError, NameConflict, RuntimeUnavailable
from flow_manager.observability.system_log import SystemLogger
from flow_manager.store.base import StoredReply
from flow_manager.testing import FakeClock


class Replies:
    """A reply store in memory that can refuse."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredReply] = {}
        self.error: FlowManagerError | None = None

    async def get(self, principal: str, request_id: str) -> StoredReply | None:
        if self.error:
            raise self.error
        return self.kept.get((principal, request_id))

    async def put(self, reply: StoredReply) -> None:
        if self.error:
            raise self.error
        self.kept[reply.principal, reply.request_id] = reply

    async def prune(self, *, older_than: datetime) -> int:
        return 0


class Attempts:
    def __init__(self, *replies: dict[str, Any]) -> None:
        self.replies, self.count = list(replies), 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> dict[str, Any]:
        self.count += 1
        await self.gate.wait()
        return self.replies[min(self.count, len(self.replies)) - 1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> Replies:
    return Replies()


@pytest.fixture
def repeats(store: Replies, clock: FakeClock) -> Repeats:
    return Repeats(store, clock, SystemLogger(level="ERROR"))


RAW: dict[str, Any] = {"image": "a", "environment": {"X": "1", "Y": "2"}}


async def test_the_second_time_gives_the_first_reply_and_does_nothing(repeats: Repeats) -> None:
    attempts = Attempts(success({"id": 1}), success({"id": 2}))
    for raw in (RAW, {"environment": {"Y": "2", "X": "1"}, "image": "a", "request_id": "r"}):
        assert (await repeats.run(LOCAL, "create_container", "r", raw, attempts))["data"] == {"id": 1}
    assert attempts.count == 1


async def test_attempts_that_overlap_share_one(repeats: Repeats) -> None:
    attempts = Attempts(success({"id": 1}))
    attempts.gate.clear()
    both = [asyncio.create_task(repeats.run(LOCAL, "create_container", "r", RAW, attempts)) for _ in range(3)]
    await asyncio.sleep(0)
    attempts.gate.set()
    assert [reply["data"] for reply in await asyncio.gather(*both)] == [{"id": 1}] * 3
    assert attempts.count == 1


async def test_a_client_that_leaves_does_not_end_its_request(repeats: Repeats) -> None:
    attempts = Attempts(success({"id": 1}))
    attempts.gate.clear()
    caller = asyncio.create_task(repeats.run(LOCAL, "create_container", "r", RAW, attempts))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    attempts.gate.set()
    assert (await repeats.run(LOCAL, "create_container", "r", RAW, attempts))["data"] == {"id": 1}
    assert attempts.count == 1


@pytest.mark.parametrize(("event", "raw"), [("stop_container", RAW), ("create_container", {"image": "b"})])
async def test_the_same_id_with_another_request_is_a_conflict(
    repeats: Repeats, event: str, raw: dict[str, Any]
) -> None:
    attempts = Attempts(success({}))
    await repeats.run(LOCAL, "create_container", "r", RAW, attempts)
    reply = await repeats.run(LOCAL, event, "r", raw, attempts)
    assert reply["code"] == "conflict" and attempts.count == 1


async def test_a_refusal_is_kept_and_a_transient_failure_is_not(repeats: Repeats) -> None:
    refused = Attempts(failure(NameConflict("taken", kind="docker")), success({}))
    for _ in range(2):
        assert (await repeats.run(LOCAL, "create_container", "a", RAW, refused))["code"] == "name_conflict"
    away = Attempts(failure(RuntimeUnavailable("away", kind="docker")), success({"id": 1}))
    assert (await repeats.run(LOCAL, "create_container", "b", RAW, away))["code"] == "runtime_unavailable"
    assert (await repeats.run(LOCAL, "create_container", "b", RAW, away))["data"] == {"id": 1}


async def test_ids_are_a_principals_own_and_forgotten_after_a_day(repeats: Repeats, clock: FakeClock) -> None:
    attempts = Attempts(success({"id": 1}), success({"id": 2}), success({"id": 3}))
    await repeats.run(LOCAL, "create_container", "r", RAW, attempts)
    other = await repeats.run(Principal("ann"), "create_container", "r", RAW, attempts)
    assert other["data"] == {"id": 2}
    clock.advance(timedelta(hours=24).total_seconds() + 1)
    assert (await repeats.run(LOCAL, "create_container", "r", RAW, attempts))["data"] == {"id": 3}


async def test_with_an_unreadable_memory_nothing_is_done_blindly(repeats: Repeats, store: Replies) -> None:
    store.error = DiskFull("full")
    attempts = Attempts(success({}))
    assert (await repeats.run(LOCAL, "create_container", "r", RAW, attempts))["code"] == "disk_full"
    assert attempts.count == 0


async def test_without_an_id_every_attempt_is_a_new_one(repeats: Repeats) -> None:
    attempts = Attempts(success({}))
    for _ in range(2):
        await repeats.run(LOCAL, "create_container", None, RAW, attempts)
    assert attempts.count == 2


async def test_of_large_replies_the_newest_are_kept_and_an_older_request_still_does_nothing_twice(
    store: Replies, clock: FakeClock
) -> None:
    repeats = Repeats(store, clock, SystemLogger(level="ERROR"), large_replies=250_000)
    attempts = Attempts(success({"stdout": "x" * 100_000}))
    small = Attempts(success({}))
    await repeats.run(LOCAL, "exec_container", "small", {"command": ["a"]}, small)
    for name in ("one", "two", "three"):
        await repeats.run(LOCAL, "exec_container", name, {"command": ["a"]}, attempts)
    again = {
        name: await repeats.run(LOCAL, "exec_container", name, {"command": ["a"]}, attempts)
        for name in ("small", "one", "two", "three")
    }
    assert attempts.count == 3
    assert (again["one"]["code"], again["one"]["error_type"]) == ("quota_exceeded", "limit_error")
    assert not any(again[name]["error"] for name in ("small", "two", "three"))
    assert len(again["three"]["data"]["stdout"]) == 100_000
