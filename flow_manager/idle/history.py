"""The steps of the wake under way, for the page or the client that waits for it."""

from __future__ import annotations

from collections.abc import Callable

from flow_manager.contract.wake import WakeEvent, WakeEventType
from flow_manager.util.clock import Clock

# A wake has some ten steps; a probe that changes its mind for an hour must not fill the memory.
MAX_EVENTS = 200
Listener = Callable[[WakeEvent], None]


class WakeLog:
    """Events of the current attempt: cleared when one begins, and by a nap. Ids only ever increase, across attempts and
    restarts of the manager, too, so that a page's Last-Event-ID never hides what it has not seen."""

    __slots__ = ("_clock", "_entries", "_last", "_listeners")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: list[WakeEvent] = []
        # From the wall clock in ms: more than any earlier manager can have used, at less than a thousand events a second.
        self._last = int(clock.now().timestamp() * 1000)
        self._listeners: tuple[Listener, ...] = ()

    def add(self, type: WakeEventType, message: str, error: str | None = None) -> WakeEvent:
        self._last += 1
        event = WakeEvent(type=type, message=message, timestamp=self._clock.now(), id=self._last, error=error)
        self._entries.append(event)
        if len(self._entries) > MAX_EVENTS:
            del self._entries[0]
        for listener in self._listeners:
            listener(event)
        return event

    def clear(self) -> None:
        self._entries.clear()

    def entries(self) -> list[WakeEvent]:
        return list(self._entries)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(event)` for each event from now on, synchronously; the function that ends it (idempotent)."""
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            left = list(self._listeners)
            if listener in left:
                left.remove(listener)
            self._listeners = tuple(left)

        return unsubscribe

    @property
    def followed(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)
