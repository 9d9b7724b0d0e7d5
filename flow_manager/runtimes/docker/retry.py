"""Trying again, where a repeat is safe: reads, stop, kill, delete, pulls. Never a create or a start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flow_manager.runtimes.docker.errors import repeatable
from flow_manager.util.backoff import exponential

# Wire contract, section 3: five tries, 0.1 s × 2ⁿ with jitter, inside the operation's own time limit.
TRIES = 5
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0

T = TypeVar("T")


async def repeat(call: Callable[[], Awaitable[T]], *, within: float) -> T:
    """`call()` until it works, five times at most and `within` seconds in all; the last failure is raised as it is."""
    waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
    async with asyncio.timeout(within):
        for left in range(TRIES - 1, -1, -1):
            try:
                return await call()
            except Exception as exc:
                if left == 0 or not repeatable(exc):
                    raise
            await asyncio.sleep(next(waits))
    raise AssertionError("unreachable: the last try returns or raises")
