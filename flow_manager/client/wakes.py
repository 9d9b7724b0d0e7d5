"""Following flows' wakes: every step once, also across a lost connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flow_manager.client.errors import ServiceRefused, Unreachable
from flow_manager.contract.wake import ContainerWakeEvent, WakeHistory

_log = logging.getLogger(__name__)


class WakeFollower:
    """`subscribe` and `identify` ask the service: for a flow's steps, and for its id; `tell` gets each step that comes."""

    def __init__(
        self,
        subscribe: Callable[[str], Awaitable[WakeHistory]],
        identify: Callable[[str], Awaitable[str]],
        tell: Callable[[ContainerWakeEvent], None],
    ) -> None:
        self._subscribe = subscribe
        self._identify = identify
        self._tell = tell
        # What was asked for, as it was named, and the newest step that its history had.
        self._followed: dict[str, int] = {}
        # The newest step that came, by the flow's id. Ids of steps only grow.
        self._seen: dict[str, int] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._again = False

    async def follow(self, flow: str) -> WakeHistory:
        history = await self._subscribe(flow)
        self._followed[flow] = history.history[-1].id if history.history else 0
        return history

    def leave(self, flow: str) -> None:
        self._followed.pop(flow, None)

    def received(self, step: ContainerWakeEvent) -> None:
        if step.id > self._seen.get(step.container_id, 0):
            self._seen[step.container_id] = step.id
            self._tell(step)

    def connected(self) -> None:
        """The connection came back, without its subscriptions: make them anew, and tell what was missed."""
        # One that is under way has perhaps subscribed, on the connection that is lost since, to flows that it won't again.
        self._again = True
        if self._followed and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.get_running_loop().create_task(self._renew_all())

    async def close(self) -> None:
        self._followed.clear()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def _renew_all(self) -> None:
        while self._again:
            self._again = False
            await self._renew()

    async def _renew(self) -> None:
        for flow, known in list(self._followed.items()):
            try:
                flow_id = await self._identify(flow)
                self._seen[flow_id] = max(known, self._seen.get(flow_id, 0))
                history = await self._subscribe(flow)
            except (ServiceRefused, Unreachable) as exc:
                _log.warning("the wakes of %s are no longer followed: %s", flow, exc)
                self.leave(flow)
                continue
            for step in history.history:
                self.received(ContainerWakeEvent(container_id=flow_id, **dict(step)))
