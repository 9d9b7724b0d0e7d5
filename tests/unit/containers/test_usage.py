"""What flows use: measured for those who ask, remembered, and never of a flow that sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from flow_manager.containers import usage
from flow_manager.containers.readings import Readings
from flow_manager.contract import requests
from flow_manager.contract.models import ResourceUsage
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import RuntimeUnavailable
from flow_manager.testing import eventually

ONE = requests.OneContainer(container_id="f")


class Watcher:
    def __init__(self) -> None:
        self.told: list[ResourceUsage] = []
        self.ended: str | None = None

    def sampled(self, usage: ResourceUsage, at: datetime) -> None:
        self.told.append(usage)

    def end(self, code: str) -> None:
        self.ended = code


@asynccontextmanager
async def readings_of(house, *, name: str = "f") -> AsyncIterator[tuple[Readings, list[str]]]:
    """`calls`: flows whose figures the runtime was asked for."""
    request = requests.CreateContainer(image="memory", name=name, start=True, resources={"memory": "64m"})
    await house.manager.create_container(LOCAL, request)
    calls: list[str] = []
    real = house.runtime.stats

    async def counted(id: str) -> ResourceUsage:
        calls.append(id)
        return await real(id)

    house.runtime.stats = counted
    readings = Readings(house.core)
    try:
        yield readings, calls
    finally:
        await readings.close()


async def test_the_first_who_asks_gets_figures_and_the_next_second_costs_nothing(house) -> None:
    async with readings_of(house) as (readings, calls):
        assert house.manager.get_status(LOCAL, ONE).resource_usage.memory_bytes is None
        assert readings.status_is_due(LOCAL, ONE)
        status = await readings.status(LOCAL, ONE)
        assert status.resource_usage.memory_bytes
        assert status.resource_usage.cpu_percent is not None
        assert status.resource_usage.memory_limit_bytes == 64 * 2**20
        asked = len(calls)
        assert not readings.status_is_due(LOCAL, ONE)
        assert house.manager.get_status(LOCAL, ONE).resource_usage == status.resource_usage
        assert len(calls) == asked


async def test_many_who_ask_at_once_share_one_reading(house) -> None:
    async with readings_of(house) as (readings, calls):
        statuses = await asyncio.gather(*(readings.status(LOCAL, ONE) for _ in range(50)))
        assert all(status.resource_usage.memory_bytes for status in statuses)
        assert len(calls) <= 2


async def test_an_engine_that_does_not_answer_keeps_nobody_waiting_long(house) -> None:
    async with readings_of(house) as (readings, _calls):
        house.faults.hang("stats")
        loop = asyncio.get_running_loop()
        began = loop.time()
        status = await readings.status(LOCAL, ONE)
        assert usage.PATIENCE * 0.9 <= loop.time() - began < 5
        assert status.resource_usage == ResourceUsage(memory_limit_bytes=64 * 2**20)
        # Whoever asks next is answered from memory.
        assert not readings.status_is_due(LOCAL, ONE)
        house.faults.release("stats")


async def test_a_failed_reading_is_no_error(house) -> None:
    async with readings_of(house) as (readings, _calls):
        house.faults.fail("stats", RuntimeUnavailable("away", kind="memory"))
        assert (await readings.status(LOCAL, ONE)).resource_usage.memory_bytes is None


async def test_a_flow_that_does_not_run_is_never_measured(house) -> None:
    async with readings_of(house) as (readings, calls):
        await readings.status(LOCAL, ONE)
        asked = len(calls)
        for verb in ("pause_container", "unpause_container", "kill_container"):
            await getattr(house.manager, verb)(
                LOCAL,
                requests.KillContainer(container_id="f")
                if verb == "kill_container"
                else requests.ChangeContainer(container_id="f"),
            )
            if verb != "unpause_container":
                assert not readings.status_is_due(LOCAL, ONE)
                assert house.manager.get_status(LOCAL, ONE).resource_usage.memory_bytes is None
        assert len(calls) == asked


async def test_followers_are_told_now_and_then_and_of_the_end(house, monkeypatch) -> None:
    monkeypatch.setattr(usage, "INTERVAL", 0.05)
    async with readings_of(house) as (readings, calls):
        watcher = Watcher()
        readings.follow_usage(LOCAL, ONE, lambda _id: watcher)

        async def seen() -> bool:
            return sum(told.memory_bytes is not None for told in watcher.told) >= 3

        await eventually(seen)
        await house.manager.kill_container(LOCAL, requests.KillContainer(container_id="f"))
        assert watcher.told[-1].memory_bytes is None
        asked, told = len(calls), len(watcher.told)
        await asyncio.sleep(0.2)
        assert (len(calls), len(watcher.told)) == (asked, told)
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="f"))
        assert watcher.ended == "container_not_found"


async def test_one_that_left_is_told_nothing_and_nothing_is_measured(house, monkeypatch) -> None:
    monkeypatch.setattr(usage, "INTERVAL", 0.05)
    async with readings_of(house) as (readings, calls):
        watcher = Watcher()
        readings.follow_usage(LOCAL, ONE, lambda _id: watcher)
        readings.leave_usage(house.manager.resolve(LOCAL, "f"), watcher)
        told = len(watcher.told)
        await asyncio.sleep(0.15)
        assert len(watcher.told) == told
        assert calls == []


async def test_one_that_comes_in_the_moment_in_which_the_last_one_left_is_told(house, monkeypatch) -> None:
    monkeypatch.setattr(usage, "INTERVAL", 0.05)
    async with readings_of(house) as (readings, _calls):
        first, second = Watcher(), Watcher()
        readings.follow_usage(LOCAL, ONE, lambda _id: first)
        await eventually(lambda: any(told.memory_bytes is not None for told in first.told))
        readings.leave_usage(house.manager.resolve(LOCAL, "f"), first)
        readings.follow_usage(LOCAL, ONE, lambda _id: second)
        before = len(second.told)
        await eventually(lambda: len(second.told) > before + 1)
