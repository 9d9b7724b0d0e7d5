"""An inspect that is asked for while a start is under way, so that its answer is there when the start ends.

The engine holds the container's lock for as long as it starts it, and an inspect waits for that lock. One that is sent only
after the start's answer costs a whole round trip more, on a machine whose cores a container has just begun to use.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.containers import READ_SECONDS, Containers, Handle
from flow_manager.runtimes.docker.errors import RAW

# Seconds after the start was sent: long enough for the engine to have taken the lock, a fraction of what a start takes.
LOOK_AFTER = 0.05


class EarlyLook:
    """To be entered before the start is sent. Left, nothing of it goes on."""

    def __init__(self, containers: Containers, handle: Handle) -> None:
        self._containers = containers
        self._handle = handle
        self._before = containers.last_seen(handle.flow_id)
        self._asked = False

    async def __aenter__(self) -> EarlyLook:
        self._task = asyncio.create_task(self._look(), name="docker-look")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def seen(self) -> Observation | None:
        """What it saw, where that can only be what the start has made; None: look again."""
        if not self._asked or self._before is None or (data := await self._task) is None:
            return None
        try:
            seen = self._containers.read_as(data)
        except ValueError:
            return None
        # Asked before the engine took the lock, it would see the last run, or none.
        if not seen.running or seen.started_at is None or seen.started_at == self._before.started_at:
            return None
        return self._containers.remember(data)

    async def _look(self) -> Any:
        await asyncio.sleep(LOOK_AFTER)
        self._asked = True
        path = f"containers/{self._handle.runtime_id}/json"
        try:
            # Not a short call: it waits with the start, and must not take the place of one that would be answered.
            return (await self._containers.client.long_call("GET", path, timeout=READ_SECONDS)).data
        except (*RAW, FlowManagerError):
            return None
