"""Sleep against wake, again and again: what a proxy does, and no request may be lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from flow_manager.errors import FlowManagerError
from flow_manager.idle import sleeping
from flow_manager.idle.watcher import Watcher
from tests.unit.idle.house import IdleHouse

# The loop decides in which order things happen: more trials find more orders.
TRIALS = 10_000
FLOWS = 25


async def request(house: IdleHouse, watcher: Watcher, turns: int) -> None:
    """As the proxy does it: forward when ready, else wake and look again. A forward into a dying flow is a failure."""
    flow = house.runtime.engine.flows[watcher.id]
    while True:
        if watcher.ready_now():
            lease = watcher.use("http", "client")
            for _ in range(turns):
                assert flow.state == "running", f"forwarded into a flow that is {flow.state}"
                await asyncio.sleep(0)
            assert flow.state == "running"
            lease.release()
            return
        await watcher.wake(reason="a request")


async def one_trial(house: IdleHouse, watcher: Watcher, chance: random.Random) -> None:
    watcher.leases.idle_since = house.clock.monotonic() - 1000
    if watcher.state == "ready" and not watcher.sleeping:
        sleeping.begin(watcher)
    for _ in range(chance.randrange(60)):
        await asyncio.sleep(0)
    if chance.random() < 0.5:
        await asyncio.sleep(chance.random() * 0.003)
    await asyncio.gather(*(request(house, watcher, chance.randrange(4)) for _ in range(chance.randint(1, 3))))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", ["stop", "pause"])
async def test_thousands_of_stops_raced_by_requests_lose_none(idle_house: IdleHouse, method: str) -> None:
    flows = [
        await idle_house.create(f"flow-{n}", start=True, idle={"idle_timeout": 60, "stop_method": method})
        for n in range(FLOWS)
    ]
    slept = 0

    async def trials(number: int) -> None:
        nonlocal slept
        chance = random.Random(number)
        for _ in range(TRIALS // 2 // FLOWS):
            await one_trial(idle_house, flows[number], chance)
        slept += idle_house.counted[flows[number].id].count(method)

    await asyncio.gather(*(trials(number) for number in range(FLOWS)))
    assert slept > TRIALS // 2 // 10, "the race was none: hardly any stop came through"
    for watcher in flows:
        assert len(watcher.leases) == 0
        assert watcher.state in ("ready", "stopping", "napping")


async def test_a_thousand_first_requests_make_one_start_and_are_all_answered(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    await asyncio.gather(*(request(idle_house, web, 1) for _ in range(1000)))
    assert idle_house.starts(web) == 1
    assert len(web.leases) == 0


async def test_requests_of_a_flow_that_keeps_dying_are_all_answered(idle_house: IdleHouse) -> None:
    web = await idle_house.create(command=["exit", "1"])

    async def one() -> str:
        try:
            await web.wake(reason="a request")
        except FlowManagerError as error:
            return error.code
        return "ready"

    for _ in range(50):
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(one() for _ in range(20)))
        assert set(answers) <= {"ready", "start_failed"}
        await idle_house.clock.run(400)
