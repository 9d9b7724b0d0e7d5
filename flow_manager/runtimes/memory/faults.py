"""What can go wrong with an engine, on demand.

    faults = Faults()
    runtime = MemoryRuntime(faults=faults)
    faults.fail("start", NoSpace("disk full", kind="memory"), times=2)   # the next two starts
    faults.delay("stop", 3.0)                                            # by the runtime's own `sleep`
    faults.hang("create")                                                # until `release`, or the runtime's call_timeout
    faults.lose_events(1, type="died")
    faults.go_away("the engine restarts"); faults.come_back()

Faults of one call are used up in the order in which they were given, one a call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flow_manager.runtimes.base import RuntimeEvent

When = Literal["before", "after"]
"""`before` the engine did anything, or `after` it did: the answer alone is late or lost, the effect stays. (The one way to
see a `create` fail and leave its container: what a connection that breaks does to a real engine.)"""
CALLS = frozenset(
    {
        "create",
        "start",
        "stop",
        "kill",
        "pause",
        "unpause",
        "remove",
        "inspect",
        "logs",
        "follow_logs",
        "stats",
        "list",
        "ping",
        "exec",
        "attach",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to one call."""

    when: When
    error: Exception | None = None
    seconds: float = 0.0
    hangs: bool = False


@dataclass(slots=True)
class _EventFault:
    left: int
    copies: int  # 0 loses it, 2 tells it twice
    type: str | None


class Faults:
    """Shared by the test and the runtime."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Fault]] = defaultdict(deque)
        self._events: list[_EventFault] = []
        self._released: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._listeners: list[Callable[[str | None], None]] = []
        self.away: str | None = None

    def fail(self, call: str, error: Exception, *, times: int = 1, when: When = "before") -> None:
        """The next `times` calls raise `error`."""
        self._add(call, Fault(when, error=error), times)

    def delay(self, call: str, seconds: float, *, times: int = 1, when: When = "before") -> None:
        """The next `times` calls take that long: by the runtime's `sleep`, so a fake clock decides when it is over."""
        self._add(call, Fault(when, seconds=seconds), times)

    def hang(self, call: str, *, times: int = 1, when: When = "before") -> None:
        """The next `times` calls get no answer until `release`; past its `call_timeout` the runtime gives up."""
        self._released[call].clear()
        self._add(call, Fault(when, hangs=True), times)

    def release(self, call: str) -> None:
        """Let those that hang go on."""
        self._released[call].set()

    def lose_events(self, count: int = 1, *, type: str | None = None) -> None:
        """The next `count` events (of that type) are told to nobody."""
        self._events.append(_EventFault(count, 0, type))

    def duplicate_events(self, count: int = 1, *, type: str | None = None) -> None:
        """The next `count` events (of that type) are told twice."""
        self._events.append(_EventFault(count, 2, type))

    def go_away(self, reason: str = "the engine is down") -> None:
        """Every call gives `RuntimeUnavailable`, no event is told. Flows go on."""
        self.away = reason
        for listener in self._listeners:
            listener(reason)

    def come_back(self) -> None:
        self.away = None
        for listener in self._listeners:
            listener(None)

    # --- the runtime's side -------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Told the reason when the engine goes away, None when it is back."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[str | None], None]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def take(self, call: str, when: When) -> Fault | None:
        waiting = self._waiting[call]
        if waiting and waiting[0].when == when:
            return waiting.popleft()
        return None

    async def released(self, call: str) -> None:
        await self._released[call].wait()

    def copies(self, event: RuntimeEvent) -> int:
        """How often this event is told."""
        for fault in self._events:
            if fault.left and fault.type in (None, event.type):
                fault.left -= 1
                return fault.copies
        return 1

    def _add(self, call: str, fault: Fault, times: int) -> None:
        if call not in CALLS:
            raise ValueError(f"no call {call!r}: {', '.join(sorted(CALLS))}")
        self._waiting[call].extend([fault] * times)
