"""What flows write: their last lines, and following them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.log_batch import LogBatch, batches, model, newest
from flow_manager.containers.log_feed import Follower, LogFeed
from flow_manager.contract.inside import FollowLogs, GetLogs, Logs
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.errors import TooManyStreams, Unsupported
from flow_manager.runtimes.inside import LogLine
from flow_manager.util.ids import new_short_id

# Flows that can be followed at the same time: each holds a connection to its engine, of which commands need some, too.
MAX_FEEDS = 512
# Bytes of new lines that may wait while the last ones are asked for.
WAITING_BYTES = 256 * 1024


async def get_logs(core: Core, principal: Principal, request: GetLogs) -> Logs:
    """Wakes nothing and counts as no use of the flow.

    :raises ContainerNotFound, Unsupported, RuntimeUnavailable:
    """
    entry = core.table.resolve(principal, request.container_id)
    lines = await _read(entry, request.tail, request.since)
    return Logs.model_construct(lines=[model(line) for line in newest(lines, core.masker.mask_text)])


async def _read(entry: FlowEntry, tail: int, since: datetime | None = None) -> list[LogLine]:
    runtime = entry.runtime
    if not runtime.capabilities.logs:
        raise Unsupported(f"the runtime '{runtime.name}' keeps no logs", kind=runtime.kind, capability="logs")
    return await runtime.logs(entry.id, tail=tail, since=since)


class Waiting:
    """Holds lines for one who is about to follow; what is too much is let go, and counted."""

    full = False

    def __init__(self) -> None:
        self.batches: deque[LogBatch] = deque()
        self.lost = 0
        self._size = 0

    def take(self, batch: LogBatch) -> None:
        self.batches.append(batch)
        self._size += batch.size
        while self._size > WAITING_BYTES:
            dropped = self.batches.popleft()
            self._size -= dropped.size
            self.lost += len(dropped.items)

    def lose(self, count: int) -> None: ...

    def end(self, code: str) -> None: ...


class LogFeeds:
    """The followed flows. Made and closed with the manager; a flow that nobody follows costs nothing."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._feeds: dict[str, LogFeed] = {}
        self._turn = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        core.status_listeners.append(self._status_changed)
        core.forget_listeners.append(self._deleted)

    def __len__(self) -> int:
        return len(self._feeds)

    async def follow(self, principal: Principal, request: FollowLogs, make: Callable[[str], Follower]) -> None:
        """Give `make(flow's id)` the last lines, and then each new one, until `leave`: neither gap nor repeat.

        :raises ContainerNotFound, Unsupported, RuntimeUnavailable, TooManyStreams, ShuttingDown:
        """
        core = self._core
        entry = core.table.resolve(principal, request.container_id)
        core.refuse_when_closing()
        feed = self._feeds.get(entry.id)
        if feed is None:
            if len(self._feeds) >= MAX_FEEDS:
                raise TooManyStreams(f"{MAX_FEEDS} flows are followed already", limit=MAX_FEEDS)
            feed = self._feeds[entry.id] = LogFeed(entry, core.masker.mask_text, self._turn, self._fault)
        feed.expected += 1
        try:
            if not feed.under_way:
                async with feed.opening:
                    if not feed.under_way:
                        await self._join(feed, request, make, None)
                        return
            # What comes while the last lines are asked for is in them, or waits here, or both.
            waiting = Waiting()
            feed.join(waiting, ())
            try:
                await self._join(feed, request, make, waiting)
            finally:
                feed.leave(waiting)
        finally:
            feed.expected -= 1
            self._let_go(feed)

    async def _join(
        self, feed: LogFeed, request: FollowLogs, make: Callable[[str], Follower], waiting: Waiting | None
    ) -> None:
        core, entry = self._core, feed.entry
        lines = await _read(entry, request.tail, request.since)
        last = lines or await _read(entry, 1)
        core.still_there(entry)
        core.refuse_when_closing()
        known = max((line.position for line in last), default=())
        if entry.running:
            # A line that has not ended comes later, whole.
            lines = [line for line in lines if line.whole]
        follower = make(entry.id)
        for batch in batches(newest(lines, core.masker.mask_text), str):
            follower.take(batch)
        if waiting is not None:
            if waiting.lost:
                follower.lose(waiting.lost)
            for batch in waiting.batches:
                if (part := batch.behind(known)).items:
                    follower.take(part)
        feed.join(follower, known)

    def leave(self, flow_id: str, follower: Follower) -> None:
        feed = self._feeds.get(flow_id)
        if feed is not None:
            feed.leave(follower)
            self._let_go(feed)

    async def close(self) -> None:
        for feed in list(self._feeds.values()):
            self._end(feed)
        if self._ending:
            await asyncio.wait(self._ending)

    def _let_go(self, feed: LogFeed) -> None:
        if not feed.wanted and self._feeds.get(feed.entry.id) is feed:
            self._end(feed)

    def _end(self, feed: LogFeed) -> None:
        self._feeds.pop(feed.entry.id, None)
        self._keep(feed.close())

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _fault(self, flow_id: str, fault: Exception) -> None:
        self._core.log.log_error(new_short_id("err"), fault, where="following logs", container_id=flow_id)

    def _status_changed(self, _tenant: str, status: ContainerStatus) -> None:
        if (feed := self._feeds.get(status.id)) is not None:
            feed.stir()

    def _deleted(self, entry: FlowEntry) -> None:
        feed = self._feeds.pop(entry.id, None)
        if feed is not None:
            self._keep(feed.deleted())
