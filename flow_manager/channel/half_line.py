"""A line that was begun and is not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flow_manager.channel.deadlines import TIMER_SLACK


class HalfLineWatch:
    """Calls `expired` when one line stays unfinished for `limit` seconds, counted from its first byte.

    From the last byte, one byte a second would keep it open for ever. While `is_read` is false the rest of the line can't
    come, which is not the flow's fault: then it waits on.
    """

    __slots__ = ("_expired", "_is_read", "_limit", "_loop", "_since", "_timer")

    def __init__(
        self,
        limit: float,
        is_read: Callable[[], bool],
        expired: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._limit = limit
        self._is_read = is_read
        self._expired = expired
        self._loop = loop
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def unfinished(self, *, began_now: bool) -> None:
        if began_now or self._since is None:
            self._since = self._loop.time()
        # One timer runs on from line to line: setting one for each would cost more than the lines.
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit, self._look)

    def finished(self) -> None:
        self._since = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        remaining = self._since + self._limit - self._loop.time()
        if remaining > TIMER_SLACK or not self._is_read():
            self._timer = self._loop.call_later(max(remaining, self._limit / 10), self._look)
        else:
            self._expired()
