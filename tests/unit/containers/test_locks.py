"""Each flow's lock: order, joining, pre-emption, and callers who leave."""

from __future__ import annotations

import asyncio

import pytest

from flow_manager.containers.locks import FlowLocks
from flow_manager.errors import Conflict, ShuttingDown


class Work:
    """An operation's body that ends when the test says so."""

    def __init__(self, journal: list[str], name: str, *, clean_up: asyncio.Event | None = None) -> None:
        self.journal, self.name = journal, name
        self.started, self.may_end, self.clean_up = asyncio.Event(), asyncio.Event(), clean_up

    async def __call__(self) -> str:
        self.journal.append(f"{self.name} begins")
        self.started.set()
        try:
            await self.may_end.wait()
        finally:
            if self.clean_up is not None and not self.may_end.is_set():
                await self.clean_up.wait()
            self.journal.append(f"{self.name} ends")
        return self.name


@pytest.fixture
def locks() -> FlowLocks:
    return FlowLocks()


async def test_operations_on_one_flow_run_one_at_a_time_in_order_of_arrival(locks: FlowLocks) -> None:
    journal: list[str] = []
    works = [Work(journal, name) for name in ("start", "stop", "restart")]
    callers = [asyncio.create_task(locks.run("f", work.name, None, work)) for work in works]
    for work in works:
        await work.started.wait()
        work.may_end.set()
    assert await asyncio.gather(*callers) == ["start", "stop", "restart"]
    assert journal == [f"{w.name} {step}" for w in works for step in ("begins", "ends")]


async def test_operations_on_two_flows_run_at_the_same_time(locks: FlowLocks) -> None:
    first, second = Work([], "start"), Work([], "start")
    callers = [
        asyncio.create_task(locks.run("a", "start", None, first)),
        asyncio.create_task(locks.run("b", "start", None, second)),
    ]
    await asyncio.gather(first.started.wait(), second.started.wait())
    first.may_end.set()
    second.may_end.set()
    await asyncio.gather(*callers)


async def test_an_identical_operation_joins_the_one_under_way(locks: FlowLocks) -> None:
    journal: list[str] = []
    work, never = Work(journal, "stop"), Work(journal, "second")
    one = asyncio.create_task(locks.run("f", "stop", 5, work))
    await work.started.wait()
    two = asyncio.create_task(locks.run("f", "stop", 5, never))
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(one, two) == ["stop", "stop"]
    assert journal == ["stop begins", "stop ends"]


async def test_one_with_other_parameters_queues_instead_of_joining(locks: FlowLocks) -> None:
    journal: list[str] = []
    first, second = Work(journal, "stop"), Work(journal, "stop again")
    one = asyncio.create_task(locks.run("f", "stop", 5, first))
    await first.started.wait()
    two = asyncio.create_task(locks.run("f", "stop", 9, second))
    first.may_end.set()
    second.may_end.set()
    assert await asyncio.gather(one, two) == ["stop", "stop again"]


async def test_nobody_joins_over_the_heads_of_those_who_wait(locks: FlowLocks) -> None:
    """stop, start, stop must end stopped: the second stop may not be satisfied by the first."""
    journal: list[str] = []
    works = [Work(journal, "stop"), Work(journal, "start"), Work(journal, "stop 2")]
    first = asyncio.create_task(locks.run("f", "stop", None, works[0]))
    await works[0].started.wait()
    others = [
        asyncio.create_task(locks.run("f", "start", None, works[1])),
        asyncio.create_task(locks.run("f", "stop", None, works[2])),
    ]
    await asyncio.sleep(0)
    for work in works:
        work.may_end.set()
    await asyncio.gather(first, *others)
    assert [line for line in journal if line.endswith("begins")] == ["stop begins", "start begins", "stop 2 begins"]


async def test_a_kill_ends_what_is_under_way_and_its_caller_gets_a_conflict(locks: FlowLocks) -> None:
    journal: list[str] = []
    stop, kill = Work(journal, "stop"), Work(journal, "kill")
    stopping = asyncio.create_task(locks.run("f", "stop", None, stop))
    await stop.started.wait()
    kill.may_end.set()
    assert await locks.run("f", "kill", None, kill, preempt=True) == "kill"
    with pytest.raises(Conflict) as refused:
        await stopping
    assert refused.value.details == {"operation": "kill"}


async def test_the_kill_waits_until_what_it_ended_has_cleaned_up(locks: FlowLocks) -> None:
    journal: list[str] = []
    cleaned = asyncio.Event()
    create, kill = Work(journal, "create", clean_up=cleaned), Work(journal, "kill")
    kill.may_end.set()
    creating = asyncio.create_task(locks.run("f", "create", None, create))
    await create.started.wait()
    killing = asyncio.create_task(locks.run("f", "kill", None, kill, preempt=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert journal == ["create begins"]
    cleaned.set()
    await killing
    assert journal == ["create begins", "create ends", "kill begins", "kill ends"]
    with pytest.raises(Conflict):
        await creating


async def test_a_kill_does_not_end_a_forced_delete(locks: FlowLocks) -> None:
    journal: list[str] = []
    delete, kill = Work(journal, "delete"), Work(journal, "kill")
    deleting = asyncio.create_task(locks.run("f", "delete", True, delete, preempt=True))
    await delete.started.wait()
    killing = asyncio.create_task(locks.run("f", "kill", None, kill, preempt=True))
    await asyncio.sleep(0)
    delete.may_end.set()
    kill.may_end.set()
    assert await asyncio.gather(deleting, killing) == ["delete", "kill"]


async def test_a_caller_who_leaves_cancels_nothing(locks: FlowLocks) -> None:
    journal: list[str] = []
    work = Work(journal, "start")
    caller = asyncio.create_task(locks.run("f", "start", None, work))
    await work.started.wait()
    joined = asyncio.create_task(locks.run("f", "start", None, work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    work.may_end.set()
    assert await joined == "start"


async def test_a_failure_reaches_everyone_who_joined_and_frees_the_lock(locks: FlowLocks) -> None:
    gate = asyncio.Event()

    async def fails() -> None:
        await gate.wait()
        raise ValueError("no")

    callers = [asyncio.create_task(locks.run("f", "start", None, fails)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    for caller in callers:
        with pytest.raises(ValueError, match="no"):
            await caller
    work = Work([], "stop")
    work.may_end.set()
    assert await locks.run("f", "stop", None, work) == "stop"


async def test_draining_waits_then_ends_what_is_left_and_says_how_many(locks: FlowLocks) -> None:
    quick, endless = Work([], "start"), Work([], "stop")
    quick.may_end.set()
    done = asyncio.create_task(locks.run("a", "start", None, quick))
    cut = asyncio.create_task(locks.run("b", "stop", None, endless))
    await endless.started.wait()
    assert await locks.drain(0.05) == 1
    assert await done == "start"
    with pytest.raises(ShuttingDown):
        await cut


async def test_locks_of_idle_flows_are_dropped(locks: FlowLocks) -> None:
    work = Work([], "start")
    work.may_end.set()
    await locks.run("f", "start", None, work)
    assert locks._locks == {}


async def test_an_operation_ended_before_its_first_step_frees_the_lock(locks: FlowLocks) -> None:
    """A task that is cancelled before it ever ran enters no `try`: its lock was held for ever."""
    journal: list[str] = []
    never, kill = Work(journal, "stop"), Work(journal, "kill")
    kill.may_end.set()
    stopping = asyncio.create_task(locks.run("f", "stop", None, never))
    killing = asyncio.create_task(locks.run("f", "kill", None, kill, preempt=True))
    async with asyncio.timeout(5):
        assert await killing == "kill"
        with pytest.raises(Conflict):
            await stopping
        after = Work(journal, "start")
        after.may_end.set()
        assert await locks.run("f", "start", None, after) == "start"
    assert locks._locks == {}


async def test_a_storm_of_operations_and_kills_always_ends(locks: FlowLocks) -> None:
    async def body() -> None:
        await asyncio.sleep(0)

    async def caller(number: int) -> None:
        name = ("stop", "start", "kill", "delete")[number % 4]
        for _ in range(number % 7):
            await asyncio.sleep(0)
        try:
            await locks.run("f", name, number % 3, body, preempt=name in ("kill", "delete"))
        except Conflict:
            pass

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(number) for number in range(1000)))
    assert locks._locks == {}


async def test_an_operation_that_is_cancelled_from_within_is_answered_and_frees_the_lock(locks: FlowLocks) -> None:
    async def body() -> None:
        raise asyncio.CancelledError

    with pytest.raises(Conflict, match="start was cut off"):
        await locks.run("f", "start", None, body)
    stop = Work([], "stop")
    stop.may_end.set()
    assert await locks.run("f", "stop", None, stop) == "stop"
