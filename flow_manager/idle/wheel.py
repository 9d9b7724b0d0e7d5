"""One timer for all flows: a task or a timer each would cost 1,500 or 600 bytes and make every collection of garbage slow.

Time is cut into ticks; each item with a deadline is in the bucket of its tick. A deadline that moves on is only a field:
its item is looked at when its old tick comes, and goes into the bucket of the new one. One `call_later` is armed, for the
next tick in which anything is due, and none while nothing is.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol

from flow_manager.util.clock import Clock

# Seconds. A flow that sleeps a quarter of a second late has not cost anything; fewer buckets cost less.
RESOLUTION = 0.25
NEVER = math.inf
# The loop was late by more than this many seconds: the process was stopped (SIGSTOP, a suspended machine).
GAP = 30.0
# Fewer buckets than this are not worth being looked through for empty ones.
FEW = 64


class Item(Protocol):
    """What has a deadline. The two fields are the wheel's; they begin as `NEVER` and 0."""

    wheel_at: float
    wheel_tick: int

    def wheel_due(self, now: float) -> None:
        """Its deadline has come. It may arm itself again. Must not raise."""
        ...


class Handle(Protocol):
    def cancel(self) -> object: ...


CallLater = Callable[[float, Callable[[], None]], Handle]


def _loop_call_later(delay: float, callback: Callable[[], None]) -> Handle:
    return asyncio.get_running_loop().call_later(delay, callback)


class Wheel:
    """`on_gap(now)` is called before anything else when the loop stood still for more than `GAP` seconds."""

    def __init__(
        self,
        clock: Clock,
        *,
        resolution: float = RESOLUTION,
        call_later: CallLater = _loop_call_later,
        on_gap: Callable[[float], None] = lambda _now: None,
    ) -> None:
        self._clock = clock
        self._resolution = resolution
        self._call_later = call_later
        self._on_gap = on_gap
        self._buckets: dict[int, set[Any]] = {}
        self._ticks: list[int] = []
        self._sweep_beyond = FEW
        self._handle: Handle | None = None
        self._armed_tick = 0
        self._expected = 0.0
        self._closed = False

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    @property
    def armed(self) -> bool:
        """Whether a timer of the event loop is set."""
        return self._handle is not None

    def arm(self, item: Item, at: float) -> None:
        """Call `item.wheel_due` at `at` (monotonic seconds), never before it and at most one tick later."""
        item.wheel_at = at
        tick = max(1, math.ceil(at / self._resolution))
        if item.wheel_tick:
            if item.wheel_tick <= tick:
                return  # looked at when its earlier tick comes
            self._take_out(item)
        if self._closed:
            return
        item.wheel_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
        bucket.add(item)
        self._set_timer()

    def disarm(self, item: Item) -> None:
        """Nothing will be called; the item leaves the wheel when its tick comes."""
        item.wheel_at = NEVER

    def forget(self, item: Item) -> None:
        """As `disarm`, and the wheel lets go of it at once."""
        item.wheel_at = NEVER
        if item.wheel_tick:
            self._take_out(item)
            self._set_timer()

    def close(self) -> None:
        self._closed = True
        self._buckets.clear()
        self._ticks.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _take_out(self, item: Item) -> None:
        bucket = self._buckets.get(item.wheel_tick)
        if bucket is not None:
            # An empty one stays until its tick comes first, or there are many: made again and again, it would fill the heap.
            bucket.discard(item)
            if not bucket and len(self._ticks) > self._sweep_beyond:
                self._sweep()
        item.wheel_tick = 0

    def _sweep(self) -> None:
        """Flows with deadlines of days that come and go would leave 345,600 empty buckets a day."""
        self._buckets = {tick: bucket for tick, bucket in self._buckets.items() if bucket}
        self._ticks = sorted(self._buckets)
        self._sweep_beyond = 2 * len(self._ticks) + FEW

    def _set_timer(self) -> None:
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heapq.heappop(self._ticks)]
        first = self._ticks[0] if self._ticks else 0
        if self._handle is not None:
            if first == self._armed_tick:
                return
            self._handle.cancel()
            self._handle = None
        if first and not self._closed:
            self._armed_tick = first
            now = self._clock.monotonic()
            delay = max(0.0, first * self._resolution - now)
            # A deadline may be set in the past (a policy that was shortened): that is no gap.
            self._expected = now + delay
            self._handle = self._call_later(delay, self._turn)

    def _turn(self) -> None:
        self._handle = None
        now = self._clock.monotonic()
        if now - self._expected > GAP:
            self._on_gap(now)
        due: list[Any] = []
        while self._ticks and self._ticks[0] * self._resolution <= now:
            due.extend(self._buckets.pop(heapq.heappop(self._ticks)))
        for item in due:
            item.wheel_tick = 0
        for item in due:
            if item.wheel_tick:
                continue  # armed again by one before it
            if item.wheel_at <= now:
                item.wheel_at = NEVER
                item.wheel_due(now)
            elif item.wheel_at != NEVER:
                self.arm(item, item.wheel_at)
        self._set_timer()
