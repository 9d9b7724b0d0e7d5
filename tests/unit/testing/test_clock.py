"""A clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from flow_manager.testing import FakeClock


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    await asyncio.sleep(0.001)
    assert (clock.monotonic(), clock.now()) == (0.0, datetime(2026, 5, 1, tzinfo=UTC))
    clock.advance(90)
    assert (clock.monotonic(), clock.now()) == (90.0, datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=90))
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock, woken = FakeClock(), []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("late", 5), ("early", 2), ("never", 9))]
    await clock.wait_for_sleepers(3)
    await clock.run(6)
    assert woken == [("early", 2.0), ("late", 5.0)]
    assert clock.sleepers == 1
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert clock.sleepers == 0
    await clock.run(10)
    assert len(woken) == 2


async def test_one_who_sleeps_again_wakes_again_within_one_run() -> None:
    clock, beats = FakeClock(), []

    async def heart() -> None:
        while True:
            await clock.sleep(1)
            beats.append(clock.monotonic())

    beating = asyncio.create_task(heart())
    await clock.run(5)
    assert beats == [1.0, 2.0, 3.0, 4.0, 5.0]
    beating.cancel()
    await asyncio.wait([beating])


async def test_no_time_is_no_sleep() -> None:
    await asyncio.wait_for(FakeClock().sleep(0), 1)


async def test_waiting_for_sleepers_has_a_limit() -> None:
    with pytest.raises(TimeoutError):
        await FakeClock().wait_for_sleepers(1, timeout=0.01)
