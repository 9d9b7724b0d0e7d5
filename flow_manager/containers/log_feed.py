"""One flow's log for all who follow it: one stream from its runtime, taken up again at each start of the flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.log_batch import LogBatch, batches
from flow_manager.containers.status import state_of
from flow_manager.errors import ContainerNotFound, FlowManagerError, Internal, ShuttingDown, Unsupported
from flow_manager.runtimes.inside import LogLine, LogPosition
from flow_manager.util.backoff import exponential

# A stream that ended or broke while the flow runs is opened again after these seconds, at first and at most.
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
# A deleted flow's stream ends by itself, behind its last lines; one that does not is ended after this many seconds.
LAST_LINES = 2.0
# While nobody has room, so often it is asked for, in seconds.
LOOK_AGAIN = 0.02
# A batch that took longer than this, in seconds, is followed by as long a pause.
SHORT = 0.0005


class Follower(Protocol):
    """Who gets lines. Synchronous and quick."""

    @property
    def full(self) -> bool:
        """What is given now would push something else out."""
        ...

    def take(self, batch: LogBatch) -> None: ...

    def lose(self, count: int) -> None:
        """So many lines were left out here."""
        ...

    def end(self, code: str) -> None:
        """Nothing more comes; why, as an error's code."""
        ...


class LogFeed:
    """`turn` is shared by all feeds: together they use at most half of the loop's time, however much flows write.

    What the runtime has not been asked for yet stays in the engine's files: the feed waits while *all* its followers are
    full, so one that is alone loses nothing, and one that is slow among others holds nobody up.
    """

    def __init__(
        self,
        entry: FlowEntry,
        mask: Callable[[str], str],
        turn: asyncio.Lock,
        fault: Callable[[str, Exception], None],
    ) -> None:
        self.entry = entry
        self._fault = fault
        # Held by who joins first, until the stream's beginning is settled.
        self.opening = asyncio.Lock()
        # Followers that are about to join count, too.
        self.expected = 0
        # Each with the place up to which it has the lines already; None once that is behind us.
        self._followers: dict[Follower, LogPosition | None] = {}
        self._mask = mask
        self._turn = turn
        self._stirred = asyncio.Event()
        self._stream: asyncio.Timeout | None = None
        self._publishing = False
        self._gone = False
        self._reason = ContainerNotFound.code
        self._task: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> bool:
        return bool(self._followers) or self.expected > 0

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def join(self, follower: Follower, known: LogPosition) -> None:
        """From now on `follower` gets what is behind `known`. The first to join decides where the stream begins."""
        self._followers[follower] = known or None
        if not self.under_way:
            self._task = asyncio.get_running_loop().create_task(self._run(known), name=f"logs-{self.entry.id}")

    def leave(self, follower: Follower) -> None:
        self._followers.pop(follower, None)

    def stir(self) -> None:
        """Something about the flow changed: look whether there is more."""
        self._stirred.set()
        # A frozen flow writes nothing, so its stream can be given back; not in mid-batch, which would be lost.
        if self._asleep and not self._publishing and self._stream is not None:
            self._stream.reschedule(asyncio.get_running_loop().time())

    def deleted(self) -> asyncio.Task[None] | None:
        """The flow is gone: end behind its last lines. What is given back is to be waited for."""
        self._gone = True
        self._stirred.set()
        if self._task is not None:
            asyncio.get_running_loop().call_later(LAST_LINES, self._task.cancel)
        return self._task

    def close(self, reason: str = ShuttingDown.code) -> asyncio.Task[None] | None:
        """End it. What is given back is to be waited for."""
        self._reason = reason
        self._end_followers()  # a task that never began would not
        if self._task is not None:
            self._task.cancel()
        return self._task

    @property
    def _asleep(self) -> bool:
        return state_of(self.entry) == "paused"

    async def _run(self, position: LogPosition) -> None:
        try:
            delays = iter(exponential(FIRST_RETRY, maximum=LAST_RETRY))
            while not self._gone:
                self._stirred.clear()
                before, failed = position, False
                try:
                    async with asyncio.timeout(None) as self._stream:
                        async with aclosing(self._lines(position)) as found:
                            async for lines in found:
                                position = max(position, lines[-1].position)
                                await self._publish(lines)
                                if self._asleep:
                                    break
                except TimeoutError:
                    pass  # it fell asleep
                except Unsupported as error:
                    self._reason = error.code
                    return
                except FlowManagerError:
                    failed = True
                finally:
                    self._stream = None
                if position != before:
                    delays = iter(exponential(FIRST_RETRY, maximum=LAST_RETRY))
                again = failed or (self.entry.running and not self._asleep)
                await self._wait(next(delays) if again else None)
        except Exception as fault:
            self._reason = Internal.code
            self._fault(self.entry.id, fault)
        finally:
            self._end_followers()

    def _end_followers(self) -> None:
        followers, self._followers = list(self._followers), {}
        for follower in followers:
            follower.end(self._reason)

    async def _lines(self, position: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        if self._asleep:
            return
        async with aclosing(self.entry.runtime.follow_logs(self.entry.id, after=position)) as found:
            async for lines in found:
                yield lines

    async def _wait(self, seconds: float | None) -> None:
        """Until something changed, and where the flow seems to run, not longer than that."""
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _publish(self, lines: list[LogLine]) -> None:
        loop = asyncio.get_running_loop()
        self._publishing = True
        try:
            async with self._turn:
                began = loop.time()
                for batch in batches(lines, self._mask):
                    self._give(batch)
                    if (took := loop.time() - began) > SHORT:
                        await asyncio.sleep(took)
                        began = loop.time()
        finally:
            self._publishing = False
        while self._followers and all(follower.full for follower in self._followers):  # noqa: ASYNC110 - clients tell nobody
            await asyncio.sleep(LOOK_AGAIN)

    def _give(self, batch: LogBatch) -> None:
        for follower, known in list(self._followers.items()):
            part = batch
            if known is not None:
                part = batch.behind(known)
                if part.items:
                    # Lines come in order: from here on all are new to it.
                    self._followers[follower] = None
            if part.items:
                follower.take(part)
