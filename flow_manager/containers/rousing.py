"""Bringing a flow up for the messages that wait for it: start it, and wait until it has connected to its channel."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from flow_manager.containers.handover import Lease
from flow_manager.containers.status import flow_state_of
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import ContainerStopped, FlowManagerError, NotConnected

if TYPE_CHECKING:
    from flow_manager.containers.core import Core
    from flow_manager.containers.entry import FlowEntry

# A flow that woke may take this long to connect to its channel, and is kept awake for it. Seconds.
CONNECT_WITHIN = 30.0
# A flow that ended without a failure before it connected is left alone for so many seconds: doubled with each time in a row.
FIRST_REST, LONGEST_REST = 0.5, 15.0


class Watched(Protocol):
    """What a flow's watcher does for its messages."""

    def use(self, kind: LeaseKind, holder: str) -> Lease: ...

    async def wake(self, *, reason: str, by_request: bool = True) -> None:
        """`by_request` False: somebody asked for this flow by name, so one that was stopped starts too."""
        ...

    def held_back(self) -> FlowManagerError | None:
        """Why it failed last, with `details.retry_after`, while that is too fresh for another start; else None."""
        ...


def reachable(core: Core, entry: FlowEntry) -> bool:
    """It runs, is not about to end, and has its channel connected. A paused flow's connection stands, but nobody reads."""
    if not core.channel.is_socket_connected(entry.id):
        return False
    if entry.lost or (entry.observation is not None and entry.observation.state != "running"):
        return False
    return (core.observer.flow_state(entry) or flow_state_of(entry)) not in ("stopping", "napping")


class Rousing:
    """One flow's. `wake(by_request)` starts it and raises why it didn't start; `held_back()` is why it must not start yet.

    A flow that has just failed is started for its messages no sooner than for any other traffic, also where somebody asked for
    it by name: one that crashes at once would be started for each message that comes, and for each try to deliver it.
    """

    def __init__(
        self,
        core: Core,
        entry: FlowEntry,
        *,
        wake: Callable[[bool], Awaitable[None]],
        held_back: Callable[[], FlowManagerError | None],
    ) -> None:
        # Somebody asked for the flow by name since the last wake.
        self.asked = False
        self._core = core
        self._entry = entry
        self._wake = wake
        self._held_back = held_back
        # Any change of the flow's status.
        self._news = asyncio.Event()
        # How often in a row it ended before it connected, and until when it rests for that.
        self._ends = 0
        self._rests_until = 0.0

    def look(self) -> None:
        """The flow's status changed."""
        self._news.set()

    def went_well(self) -> None:
        """It took a message: what it did before is forgotten."""
        self._ends = 0

    @property
    def rest(self) -> float:
        """Seconds, not above 0 when there is no reason to wait."""
        return self._rests_until - asyncio.get_running_loop().time()

    async def bring_up(self) -> None:
        """Return when it is connected. :raises FlowManagerError: why it isn't."""
        if (error := self._held_back()) is not None:
            # A flow that is wanted needs nobody to ask for it, and one that is stopped until then was stopped later.
            self.asked = self.asked and self._entry.record.desired == "stopped"
            raise error
        if self.rest > 0:
            raise self._ended()
        asked, self.asked = self.asked, False
        if self._entry.config.idle is None and self._entry.record.desired == "running":
            # Traffic never wakes it; but it was asked for by name, and nobody has stopped it since.
            asked = True
        try:
            await self._wake(not asked)
        except ContainerStopped:
            self._rest()
            raise
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await self._until_connected()
        except TimeoutError:
            raise NotConnected(f"it woke, but did not connect to its channel within {CONNECT_WITHIN:g} s") from None

    async def _until_connected(self) -> None:
        while not reachable(self._core, self._entry):
            self._news.clear()
            if not self._may_connect():
                if (error := self._held_back()) is not None:
                    raise error
                self._rest()
                raise self._ended()
            await self._news.wait()

    def _rest(self) -> None:
        wait = min(LONGEST_REST, FIRST_REST * 2 ** min(self._ends, 16))
        self._rests_until = asyncio.get_running_loop().time() + wait
        self._ends += 1

    def _may_connect(self) -> bool:
        observation = self._entry.observation
        return (
            self._entry.operation is not None or observation is None or observation.state in ("running", "restarting")
        )

    def _ended(self) -> NotConnected:
        code = self._entry.observation.exit_code if self._entry.observation is not None else None
        return NotConnected(
            "it ended before it connected to its channel", exit_code=code, retry_after=max(1, math.ceil(self.rest))
        )
