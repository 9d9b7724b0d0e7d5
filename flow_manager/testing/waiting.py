"""Waiting for what can only be asked for, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")
INTERVAL = 0.005


async def eventually(
    predicate: Callable[[], Answer | Awaitable[Answer]],
    timeout: float = 5.0,
    *,
    what: str | None = None,
    interval: float = INTERVAL,
) -> Answer:
    """Ask until the answer is true, and give it back. Times in seconds. An AssertionError of the predicate counts as no.

    :raises AssertionError: not within `timeout`; it says `what`, the last answer, or the last AssertionError's words.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            asked = predicate()
            answer = await asked if inspect.isawaitable(asked) else asked
            if answer:
                return answer
            last = f"last answer: {answer!r}"
        except AssertionError as exc:
            last = exc
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout} s: {what or 'the predicate is true'} ({last})")
        await asyncio.sleep(interval)
