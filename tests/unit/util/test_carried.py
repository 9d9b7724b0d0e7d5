"""What must be done is done, whoever gives up waiting for it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from flow_manager.testing import eventually
from flow_manager.util.carried import Carried


async def test_a_caller_gets_the_result_or_the_failure() -> None:
    carried = Carried()

    async def works() -> int:
        await asyncio.sleep(0)
        return 7

    async def fails() -> None:
        raise ValueError("no")

    assert await carried.through(works()) == 7
    with pytest.raises(ValueError, match="no"):
        await carried.through(fails())
    await eventually(lambda: len(carried) == 0)


async def test_it_goes_on_without_its_caller_and_is_no_garbage_meanwhile() -> None:
    carried, done = Carried(), asyncio.Event()
    waits: list[weakref.ref[asyncio.Future[None]]] = []

    async def work() -> None:
        # A future that nobody else holds: task and future are a mere cycle.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waits.append(weakref.ref(future))
        await future
        done.set()

    caller = asyncio.create_task(carried.through(work()))
    await eventually(lambda: waits)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    gc.collect()
    future = waits[0]()
    assert future is not None and len(carried) == 1
    future.set_result(None)
    async with asyncio.timeout(5):
        await done.wait()
    await eventually(lambda: len(carried) == 0)
