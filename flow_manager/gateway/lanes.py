"""Where the events of one client that take time wait for their turn: alike ones in one lane, so that they delay only each other.

In one line for all, a look at a status, or the kill that is to end a long start, would wait behind sixty-four long starts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from flow_manager.contract.events import ClientEvent
from flow_manager.contract.principal import READ
from flow_manager.contract.requests import DeleteContainer
from flow_manager.errors import RateLimited

# Events of one client that may wait in one lane.
MAX_WAITING = 1000
RETRY_AFTER = 1

LaneName = Literal["looks", "ends", "others"]


def lane_of(event: ClientEvent, request: object) -> LaneName:
    """Looks change nothing. Ends are what does not queue for a flow's lock either: it ends what is under way."""
    if event.scope == READ:
        return "looks"
    if event.name == "kill_container" or (isinstance(request, DeleteContainer) and request.force):
        return "ends"
    return "others"


class Timed(Protocol):
    @property
    def until(self) -> float:
        """When its answer is due, by the loop's clock."""
        ...


Item = TypeVar("Item", bound=Timed)


class Lane(Generic[Item]):
    """`width` at a time, the others in order of arrival. One whose answer is due before its turn comes goes to `late`.

    All items have the same time from their arrival, so the first that waits is the first that is due.
    """

    __slots__ = ("_late", "_run", "_running", "_timer", "_waiting", "_width")

    def __init__(self, width: int, *, run: Callable[[Item], asyncio.Task[None]], late: Callable[[Item], None]) -> None:
        self._width = width
        self._run = run
        self._late = late
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[Item] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, item: Item) -> None:
        """:raises RateLimited: too many wait already."""
        if len(self._running) < self._width:
            self._go(item)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(item)
            self._watch()
        else:
            raise RateLimited(
                f"{self._width} such events are under way and {MAX_WAITING} wait", retry_after=RETRY_AFTER
            )

    def _go(self, item: Item) -> None:
        task = self._run(item)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting:
            self._go(self._waiting.popleft())
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._waiting[0].until, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0].until <= now:
            self._late(self._waiting.popleft())
        if self._waiting:
            self._watch()
