"""Connections to flows that wait for their next request. One start of a flow never gets a connection of another start."""

from __future__ import annotations

import asyncio
import select

from flow_manager.proxy.upstream import UpstreamConnection
from flow_manager.proxy.watched import WatchedFlow

# Connections kept for one flow: as many as its clients used at once, up to this.
MAX_IDLE_PER_FLOW = 128
MAX_IDLE = 1024
# Seconds kept: most servers keep theirs for longer; those that don't close them, which is seen at once.
IDLE_SECONDS = 30.0
# A request that can't be repeated gets a connection that was used this short ago, or a new one: no server gives up an idle
# connection so soon. The pool's clock moves once a second, so this says: since its last move, less than a second ago.
FRESH_SECONDS = 0.5
# … but one that did within this time gets such requests on new connections alone, for a while.
HASTY_SECONDS = 2.0
HASTY_FOR_SECONDS = 60.0
# A flow on this machine or its network answers a connect within milliseconds, or its queue is full.
CONNECT_SECONDS = 0.5


class Pool:
    """Single-threaded; last in, first out, so that what isn't needed grows old and is closed."""

    def __init__(self) -> None:
        self._idle: dict[str, list[UpstreamConnection]] = {}
        self._count = 0
        # Flows that give up idle connections at once, and until when that is remembered.
        self._hasty: dict[str, float] = {}
        self.now = 0.0

    def __len__(self) -> int:
        return self._count

    def take(self, watcher: WatchedFlow, *, repeatable: bool) -> UpstreamConnection | None:
        """One to a flow that is ready now, or None."""
        stack = self._idle.get(watcher.id)
        if self._hasty and not repeatable and self._hasty.get(watcher.id, 0.0) > self.now:
            return None
        while stack:
            connection = stack[-1]
            if _is_current(connection, watcher) and not connection.transport.is_closing():
                if not repeatable and self.now - connection.idle_since > FRESH_SECONDS:
                    return None
                if repeatable or _is_quiet(connection):
                    stack.pop()
                    self._count -= 1
                    return connection
                connection.reusable = False
            stack.pop()
            self._count -= 1
            self._given_up(connection)
            connection.close()
        return None

    def is_hasty(self, watcher: WatchedFlow) -> None:
        """It ended a connection on which a request was on its way."""
        self._hasty[watcher.id] = self.now + HASTY_FOR_SECONDS

    def _given_up(self, connection: UpstreamConnection) -> None:
        """It waited here, so it was the flow that ended it."""
        if not connection.reusable and self.now - connection.idle_since < HASTY_SECONDS:
            self.is_hasty(connection.watcher)

    def give(self, connection: UpstreamConnection) -> None:
        """Keep it for the next request, or end it."""
        connection.receiver = None
        connection.used += 1
        if not connection.reusable or self._count >= MAX_IDLE:
            connection.close()
            return
        stack = self._idle.get(connection.watcher.id)
        if stack is None:
            stack = self._idle[connection.watcher.id] = []
        if len(stack) >= MAX_IDLE_PER_FLOW:
            connection.close()
            return
        connection.idle_since = self.now
        stack.append(connection)
        self._count += 1

    async def connect(self, watcher: WatchedFlow, address: tuple[str, int]) -> UpstreamConnection:
        """:raises TimeoutError: no answer within CONNECT_SECONDS. :raises OSError: refused, or unreachable."""
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: UpstreamConnection(watcher, address), *address
            )
        return connection

    def sweep(self, now: float) -> None:
        """Close what is old, dead, or of a flow that isn't ready any more (it would make a stopping server wait)."""
        self.now = now
        if self._hasty:
            self._hasty = {flow_id: until for flow_id, until in self._hasty.items() if until > now}
        for flow_id, stack in list(self._idle.items()):
            kept = []
            for connection in stack:
                if (
                    connection.alive
                    and now - connection.idle_since < IDLE_SECONDS
                    and connection.watcher.ready_now()
                    and _is_current(connection, connection.watcher)
                ):
                    kept.append(connection)
                else:
                    self._given_up(connection)
                    connection.close()
            self._count -= len(stack) - len(kept)
            if kept:
                self._idle[flow_id] = kept
            else:
                del self._idle[flow_id]

    def close(self) -> None:
        for stack in self._idle.values():
            for connection in stack:
                connection.abort()
        self._idle.clear()
        self._hasty.clear()
        self._count = 0


def _is_quiet(connection: UpstreamConnection) -> bool:
    """Whether nothing has come that the loop has not told us yet: its end, that is, for nobody asked."""
    handle = connection.transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(handle.fileno(), select.POLLIN | select.POLLRDHUP)
    return not poll.poll(0)


def _is_current(connection: UpstreamConnection, watcher: WatchedFlow) -> bool:
    """Whether it leads to the same start of the same flow: addresses are given again to others."""
    return (
        connection.reusable
        and connection.watcher is watcher
        and connection.address == watcher.upstream
        and connection.epoch == watcher.last_ready
    )
