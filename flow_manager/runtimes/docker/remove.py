"""Removing a container, and seeing that it is gone."""

from __future__ import annotations

import asyncio
import time

from aiodocker.exceptions import DockerError

from flow_manager.errors import ContainerNotFound, OperationTimeout
from flow_manager.runtimes.docker.client import Answer
from flow_manager.runtimes.docker.containers import Containers, Handle
from flow_manager.runtimes.docker.errors import Subject, translated
from flow_manager.runtimes.docker.retry import repeat

LOOK_EVERY = 0.05


class Remover:
    def __init__(self, containers: Containers, *, timeout: float) -> None:
        self._containers = containers
        self._timeout = timeout

    async def remove(self, handle: Handle, *, force: bool) -> None:
        """With its anonymous volumes. :raises ContainerRunning, OperationTimeout, RuntimeUnavailable:"""

        async def once() -> Answer:
            path = f"containers/{handle.runtime_id}"
            params = {"v": "1", "force": "1" if force else "0"}
            return await self._containers.client.call("DELETE", path, params=params, timeout=self._timeout)

        with translated(Subject(handle.flow_id, operation="delete")):
            try:
                await repeat(once, within=self._timeout)
            except DockerError as exc:
                if exc.status == 409 and "already in progress" in exc.message:
                    await self._gone(handle)
                elif exc.status != 404:
                    raise
        self._containers.forget_container(handle.runtime_id)

    async def _gone(self, handle: Handle) -> None:
        """Somebody else is removing it; the engine has no call that waits for that end and can't miss it."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            try:
                await self._containers.observe(handle.runtime_id)
            except ContainerNotFound:
                return
            await asyncio.sleep(LOOK_EVERY)
        raise OperationTimeout(
            f"flow '{handle.flow_id}' is still being removed", operation="delete", timeout=self._timeout
        )
