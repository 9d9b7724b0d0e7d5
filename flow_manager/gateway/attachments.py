"""Binary attachments of one connection: which event, if any, the next binary message belongs to. Pure.

The protocol sends an event's header first and then its attachments, with nothing in between. What a client that doesn't can
do is little: at most one header waits, its attachments' number is bounded before, and no attachment ever is taken for another
event's.
"""

from __future__ import annotations

from flow_manager.gateway.packets import Event, completed, incomplete


class Attachments:
    """`max_payload` in bytes."""

    def __init__(self) -> None:
        self._waiting: Event | None = None
        # Attachments of a refused header are still to come, and belong to nothing.
        self._skip = 0

    def header(self, event: Event, attachments: int) -> list[Event]:
        """A header came; the events that are to be handled now."""
        ready = self.interrupted()
        if event.awaits is not None:
            self._waiting = event
        else:
            self._skip = attachments
            ready.append(event)
        return ready

    def interrupted(self) -> list[Event]:
        """Another Socket.IO packet came: what waits for its attachment waits in vain."""
        self._skip = 0
        waiting, self._waiting = self._waiting, None
        return [incomplete(waiting)] if waiting is not None else []

    def attachment(self, data: bytes, max_payload: int) -> Event | None:
        """A binary message came; the event that it completes.

        None for one that belongs to nothing: of a refused header, or of none.
        """
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return completed(waiting, data, max_payload)
        self._skip = max(0, self._skip - 1)
        return None

    def overdue(self) -> Event | None:
        """The attachment did not come in time; the event that waited. One that comes later belongs to nothing."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        self._skip = 1
        return incomplete(waiting)

    @property
    def awaited(self) -> bool:
        """An event waits for its attachment."""
        return self._waiting is not None

    @property
    def expected(self) -> bool:
        return self._waiting is not None or self._skip > 0
