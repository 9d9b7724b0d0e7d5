"""Many deadlines, few timers."""

from __future__ import annotations

import asyncio

from flow_manager.channel.deadlines import Deadlines


class Waiting:
    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        self.done = asyncio.Event()

    def expired(self, waited: float) -> None:
        self.log.append(f"{self.name} {waited}")
        self.done.set()


async def test_each_expires_after_its_time_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    deadlines, log = Deadlines(loop), []
    long, short, later = Waiting(log, "long"), Waiting(log, "short"), Waiting(log, "later")
    began = loop.time()
    deadlines.add(0.05, long)
    deadlines.add(0.02, short)
    deadlines.add(0.05, later)
    async with asyncio.timeout(5):
        await later.done.wait()
    assert log == ["short 0.02", "long 0.05", "later 0.05"]
    assert loop.time() - began >= 0.045


async def test_what_was_discarded_does_not_expire_and_the_next_is_still_found() -> None:
    deadlines, log = Deadlines(asyncio.get_running_loop()), []
    given_up, kept = Waiting(log, "given up"), Waiting(log, "kept")
    deadlines.add(0.02, given_up)
    await asyncio.sleep(0)
    deadlines.add(0.02, kept)
    deadlines.discard(0.02, given_up)
    async with asyncio.timeout(5):
        await kept.done.wait()
    assert log == ["kept 0.02"]


async def test_a_thousand_deadlines_of_one_length_share_a_timer() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    timers = 0
    call_later = loop.call_later

    def counted(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_later(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_later = counted  # type: ignore[method-assign, assignment]
    try:
        for number in range(1000):
            waiting = Waiting([], str(number))
            deadlines.add(30, waiting)
            deadlines.discard(30, waiting)
    finally:
        loop.call_later = call_later  # type: ignore[method-assign]
        deadlines.close()
    assert timers == 1


async def test_lengths_that_nobody_waits_for_any_more_are_forgotten() -> None:
    deadlines, log = Deadlines(asyncio.get_running_loop()), []
    for number in range(50):
        waiting = Waiting(log, "gone")
        deadlines.add(0.001 * (number + 1), waiting)
        deadlines.discard(0.001 * (number + 1), waiting)
    last = Waiting(log, "last")
    deadlines.add(0.08, last)
    async with asyncio.timeout(5):
        await last.done.wait()
    assert len(deadlines._queues) == 0
    assert log == ["last 0.08"]
