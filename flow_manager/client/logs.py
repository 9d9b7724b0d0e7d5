"""Following a flow's log: every line once and in order, across lost connections and restarts of the service."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from flow_manager.client.errors import ServiceRefused, Unreachable
from flow_manager.contract.inside import LogLineModel, LogLines

# Lines that may wait for a slow consumer; the oldest are let go past it, and counted in `lost`.
MAX_WAITING = 20_000
# Events that may come before the reply that tells whose they are.
MAX_UNKNOWN = 100
# After a lost connection so many lines are asked for again, to find the place.
CATCH_UP = 10_000

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]


class LogRouter:
    """Gives each `log_lines` to the follower whose subscription it names."""

    def __init__(self) -> None:
        self.followers: list[LogFollower] = []
        # A reply wakes its caller a moment after the first lines are here.
        self._unknown: deque[LogLines] = deque(maxlen=MAX_UNKNOWN)

    def received(self, event: LogLines) -> None:
        for follower in self.followers:
            if follower.subscription_id == event.subscription_id:
                follower.received(event)
                return
        self._unknown.append(event)

    def claim(self, follower: LogFollower) -> None:
        mine = [event for event in self._unknown if event.subscription_id == follower.subscription_id]
        for event in mine:
            self._unknown.remove(event)
            follower.received(event)

    def lost(self) -> None:
        self._unknown.clear()
        for follower in self.followers:
            follower.connection_lost()

    def close(self) -> None:
        for follower in list(self.followers):
            follower.close()


class LogFollower:
    """An asynchronous iterator of lines. It ends when the flow is deleted, or when it is closed.

    `lost` counts lines that were left out, because this side did not read fast enough.

    :raises ServiceRefused, Unreachable: from the iteration, when following can't begin or can't go on.
    """

    def __init__(
        self, call: Call, router: LogRouter, container_id: str, *, tail: int, since: float | str | None
    ) -> None:
        self.subscription_id: str | None = None
        self.lost = 0
        self._call = call
        self._router = router
        self._container_id = container_id
        self._tail = tail
        self._since: float | str | None = since
        self._waiting: deque[LogLineModel] = deque()
        self._changed = asyncio.Event()
        self._ended: str | None = None
        # The newest time that came, and all lines of that time: where to go on after a lost connection.
        self._newest: datetime | None = None
        self._of_newest: list[LogLineModel] = []
        self._known: list[LogLineModel] = []

    def __aiter__(self) -> LogFollower:
        return self

    async def __anext__(self) -> LogLineModel:
        while True:
            if self._waiting:
                return self._waiting.popleft()
            if self._ended is not None:
                self._leave()
                if self._ended in ("", "container_not_found"):
                    raise StopAsyncIteration
                raise ServiceRefused({"code": self._ended, "message": "the log can't be followed any more"})
            if self.subscription_id is None:
                await self._subscribe()
                continue
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop following."""
        subscription_id = self.subscription_id
        self.close()
        if subscription_id is not None:
            try:
                await self._call("unfollow_logs", {"subscription_id": subscription_id})
            except (ServiceRefused, Unreachable):
                pass  # the connection is gone, and the subscription with it

    def close(self) -> None:
        self._ended = ""
        self._leave()
        self._changed.set()

    def received(self, event: LogLines) -> None:
        """The router's."""
        self.lost += event.lost
        for line in event.lines:
            self._take(line)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1
        # A service that ends is come back to.
        if event.ended is not None and event.ended != "shutting_down":
            self._ended = event.ended
        self._changed.set()

    def connection_lost(self) -> None:
        self.subscription_id = None
        self._changed.set()

    async def _subscribe(self) -> None:
        request: dict[str, Any] = {"container_id": self._container_id, "tail": self._tail, "since": self._since}
        if self._newest is not None:
            request |= {"tail": CATCH_UP, "since": self._newest.isoformat()}
            self._known = list(self._of_newest)
        try:
            answer = await self._call("follow_logs", request)
        except ServiceRefused as refused:
            if self._newest is not None and refused.code == "container_not_found":
                self._ended = refused.code  # it was deleted meanwhile
                return
            raise
        self.subscription_id = answer["subscription_id"]
        self._router.claim(self)

    def _take(self, line: LogLineModel) -> None:
        if line.timestamp is not None:
            if line in self._known:
                self._known.remove(line)
                return
            if self._newest is None or line.timestamp > self._newest:
                self._newest, self._of_newest = line.timestamp, []
            if line.timestamp == self._newest:
                self._of_newest.append(line)
        self._waiting.append(line)

    def _leave(self) -> None:
        if self in self._router.followers:
            self._router.followers.remove(self)
