"""A runtime that goes away ends what waits for it, instead of holding flows and callers for each call's time-out."""

from __future__ import annotations

import asyncio

import pytest

from flow_manager.containers.availability import Availability
from flow_manager.errors import RuntimeUnavailable
from flow_manager.testing import MemoryRuntime


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_is_under_way_is_given_up_when_the_runtime_goes_away() -> None:
    availability, runtime = Availability(), MemoryRuntime()
    waiting = asyncio.create_task(availability.during(runtime, forever))
    await asyncio.sleep(0)
    assert availability.lost("memory", "frozen") and not availability.lost("memory", "frozen")
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeUnavailable, match="frozen"):
            await waiting


async def test_what_is_new_asks_first_whether_it_is_back() -> None:
    availability, runtime = Availability(), MemoryRuntime()
    await runtime.open()
    availability.lost("memory", "frozen")
    runtime.faults.go_away()
    with pytest.raises(RuntimeUnavailable):
        await availability.during(runtime, forever)
    runtime.faults.come_back()

    async def quick() -> str:
        return "done"

    assert await availability.during(runtime, quick) == "done"
    assert availability.back("memory") and not availability.back("memory")
    await runtime.close()


async def test_a_cancelled_caller_waits_for_the_clean_up() -> None:
    availability, runtime = Availability(), MemoryRuntime()
    cleaned = False

    async def careful() -> None:
        nonlocal cleaned
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    caller = asyncio.create_task(availability.during(runtime, careful))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned


async def test_a_failure_and_a_result_pass_unchanged() -> None:
    availability, runtime = Availability(), MemoryRuntime()

    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await availability.during(runtime, fails)


async def test_a_cancellation_from_within_is_a_fault_and_no_cancellation_of_whoever_waits() -> None:
    availability, runtime = Availability(), MemoryRuntime()

    async def cut_off() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cut off from within"):
        await availability.during(runtime, cut_off)
