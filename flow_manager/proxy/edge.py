"""What all connections of the proxy share: routes, pool, the coarse clock and its one timer, and the list of who is here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from email.utils import formatdate
from typing import Any, Protocol

from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.context import SlowContext
from flow_manager.proxy.headers import Trust
from flow_manager.proxy.pool import Pool
from flow_manager.proxy.routing import Routes
from flow_manager.util.clock import Clock

# Deadlines are checked this often: one timer for all connections, none while there are none.
SWEEP_SECONDS = 1.0
# Read at once from a client. All share one buffer: a read is handed on, as bytes, before the next begins.
READ_SIZE = 64 * 1024
WARN_EVERY = 60.0


class Swept(Protocol):
    """A client's connection. `deadline` in the clock's seconds; 0: none."""

    deadline: float

    def expire(self) -> None: ...
    def shut(self) -> None:
        """The proxy closes: now when idle, else after the response."""
        ...

    def abort(self) -> None: ...


class Edge:
    def __init__(
        self, *, routes: Routes, pool: Pool, trust: Trust, context: SlowContext, log: SystemLogger, clock: Clock
    ):
        self.routes = routes
        self.pool = pool
        self.trust = trust
        self.context = context
        self.log = log
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self.now = pool.now = clock.monotonic()
        self.closing = False
        self.connections: set[Swept] = set()
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._date = (0, b"")
        self._warned = -WARN_EVERY

    def add(self, connection: Swept) -> None:
        self.connections.add(connection)
        if self._timer is None:
            self.now = self.pool.now = self.clock.monotonic()
            self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the proxy at the latest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def date(self) -> bytes:
        """For the Date header; made once a second."""
        second = int(self.clock.now().timestamp())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]

    def warn(self, message: str, **fields: object) -> None:
        """At most one line a minute: what is told comes from strangers at any rate."""
        now = self.clock.monotonic()
        if now - self._warned >= WARN_EVERY:
            self._warned = now
            self.log.log_notice(message, warning=True, **fields)

    def _sweep(self) -> None:
        self._timer = None
        self.now = now = self.clock.monotonic()
        for connection in [one for one in self.connections if 0 < one.deadline <= now]:
            connection.expire()
        self.pool.sweep(now)
        if self.connections or len(self.pool):
            self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    async def close(self, seconds: float) -> None:
        """Let responses under way end for `seconds`, then cut off what is left; nothing of the proxy remains."""
        self.closing = True
        for connection in list(self.connections):
            connection.shut()
        until = self.loop.time() + seconds
        while self.connections and self.loop.time() < until:  # noqa: ASYNC110 - seconds, once, at the end
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.3)
        self.pool.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What was aborted is told so in the next turn of the loop; only then are the sockets closed.
        for _ in range(3):
            await asyncio.sleep(0)
