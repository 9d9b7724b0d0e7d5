"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
# After a deadline passed, what it woke gets this many turns of the loop to act (and perhaps to sleep again).
SETTLE_TURNS = 25


class FakeClock:
    """A `Clock` whose `sleep` can be given to whatever waits: time passes only in `advance` and `run`.

    clock = FakeClock()
    runtime = MemoryRuntime(sleep=clock.sleep)
    stopping = asyncio.create_task(runtime.stop(id, timeout=10))
    await clock.run(10)          # ten seconds in no time
    """

    def __init__(self, start: datetime = DEFAULT_START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    @property
    def sleepers(self) -> int:
        """How many wait in `sleep`."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Until the clock was moved that far; with 0 or less one turn of the loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self.timer(seconds)

    def timer(self, seconds: float) -> asyncio.Future[None]:
        """Done when the clock was moved that far from now; to be cancelled like a timer of the loop."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        return future

    def advance(self, seconds: float) -> None:
        """Move on at once. Those whose time has come wake in the order of their deadlines, once the caller waits.

        :raises ValueError: a clock does not go back.
        """
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._move_to(self._elapsed + seconds)

    async def run(self, seconds: float) -> None:
        """Let that time pass deadline by deadline: who wakes may sleep again and wake again within it."""
        end = self._elapsed + seconds
        await self._settle()
        while (deadline := self._next_deadline()) is not None and deadline <= end:
            self._move_to(deadline)
            await self._settle()
        self._move_to(end)
        await self._settle()

    async def wait_for_sleepers(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Until at least so many wait in `sleep`. `timeout` in real seconds. :raises TimeoutError:"""
        async with asyncio.timeout(timeout):
            while self.sleepers < count:  # noqa: ASYNC110 - a turn of the loop is all that it waits for
                await asyncio.sleep(0)

    def _next_deadline(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():  # cancelled
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def _move_to(self, moment: float) -> None:
        while (deadline := self._next_deadline()) is not None and deadline <= moment:
            self._elapsed = deadline
            heapq.heappop(self._sleepers)[2].set_result(None)
        self._elapsed = moment

    async def _settle(self) -> None:
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)
