"""Following a flow's log: every line once and in order, across lost connections and restarts of the service."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any

from flow_manager.client.following import Call, Follower, Router
from flow_manager.contract.inside import LogLineModel, LogLines

# Lines that may wait for a slow consumer; the oldest are let go past it, and counted in `lost`.
MAX_WAITING = 20_000
# After a lost connection so many lines are asked for again, to find the place.
CATCH_UP = 10_000


class LogFollower(Follower[LogLineModel, LogLines]):
    """An asynchronous iterator of lines. It ends when the flow is deleted, or when it is closed.

    `lost` counts lines that were left out, because this side did not read fast enough.

    :raises ServiceRefused, Unreachable: from the iteration, when following can't begin or can't go on.
    """

    follow, unfollow, noun = "follow_logs", "unfollow_logs", "the log"

    def __init__(
        self, call: Call, router: Router[LogLines], container_id: str, *, tail: int, since: float | str | None
    ) -> None:
        super().__init__(call, router, container_id, deque())
        self.lost = 0
        self._tail = tail
        self._since = since
        # The newest time that came, and all lines of that time: where to go on after a lost connection.
        self._newest: datetime | None = None
        self._of_newest: list[LogLineModel] = []
        self._known: list[LogLineModel] = []

    def _request(self) -> dict[str, Any]:
        if self._newest is None:
            return {**super()._request(), "tail": self._tail, "since": self._since}
        self._known = list(self._of_newest)
        return {**super()._request(), "tail": CATCH_UP, "since": self._newest.isoformat()}

    def _take(self, event: LogLines) -> None:
        self.lost += event.lost
        for line in event.lines:
            self._take_line(line)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1

    def _take_line(self, line: LogLineModel) -> None:
        if line.timestamp is not None:
            if line in self._known:
                self._known.remove(line)
                return
            if self._newest is None or line.timestamp > self._newest:
                self._newest, self._of_newest = line.timestamp, []
            if line.timestamp == self._newest:
                self._of_newest.append(line)
        self._waiting.append(line)
