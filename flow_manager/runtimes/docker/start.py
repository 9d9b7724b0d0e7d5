"""Starting, and not believing the engine when it says that there is nothing to start."""

from __future__ import annotations

import os

from aiodocker.exceptions import DockerError

from flow_manager.errors import Conflict, PathNotAllowed, StartFailed
from flow_manager.runtimes.base import LABEL_TENANT, Observation
from flow_manager.runtimes.docker.containers import Containers, Handle
from flow_manager.runtimes.docker.early_look import EarlyLook
from flow_manager.runtimes.docker.ending import Ending
from flow_manager.runtimes.docker.errors import Subject, translate
from flow_manager.runtimes.docker.networks import Networks

# A stop that is under way and ends, a start, another stop from elsewhere … at some point somebody else wants it stopped.
MAX_ROUNDS = 3
# How long a start that is expected to fail may take to do so; the init ends within milliseconds.
FAILURE_SECONDS = 3.0
ALREADY = 304


class Starter:
    """Starts containers. `suspects`: runtime ids of those whose command was not found, and why."""

    def __init__(
        self, containers: Containers, networks: Networks, ending: Ending, suspects: dict[str, str], *, timeout: float
    ) -> None:
        self._containers = containers
        self._networks = networks
        self._ending = ending
        self._suspects = suspects
        self._timeout = timeout

    async def start(self, handle: Handle) -> Observation:
        """:raises ContainerNotFound, StartFailed, PortInUse, Conflict, RuntimeUnavailable, PathNotAllowed:"""
        refuse_moved(handle.volumes)
        for _ in range(MAX_ROUNDS):
            async with EarlyLook(self._containers, handle) as look:
                status = await self._post(handle)
                early = await look.seen() if status != ALREADY else None
            seen = early or await self._containers.inspect(handle.flow_id)
            if status != ALREADY:
                return await self._fails(handle, seen) if handle.runtime_id in self._suspects else seen
            if seen.state == "paused":
                return await self._ending.unpause(handle)
            if seen.running and await self._ending.settled(handle):
                return await self._containers.inspect(handle.flow_id)
            # 304 was a lie: a stop was under way, and the container has ended by now (or it ended in between).
        raise Conflict(f"flow '{handle.flow_id}' is being stopped by somebody else", operation="stop")

    async def _post(self, handle: Handle, *, again: bool = False) -> int:
        """One start. Repeated only where the engine said why it did not do it, never blindly."""
        try:
            path = f"containers/{handle.runtime_id}/start"
            return (await self._containers.client.call("POST", path, timeout=self._timeout)).status
        except DockerError as exc:
            if exc.status == 409 and "paused" in exc.message:
                return ALREADY
            if not again and "network" in exc.message and "not found" in exc.message:
                # Somebody removed the network while nothing ran on it.
                await self._remake_network(handle)
                return await self._post(handle, again=True)
            raise translate(exc, Subject(handle.flow_id, operation="start")) from exc
        except (OSError, TimeoutError, ValueError, AssertionError) as exc:
            raise translate(exc, Subject(handle.flow_id, operation="start")) from exc

    async def _remake_network(self, handle: Handle) -> None:
        if not handle.network.startswith("flow-manager-"):
            return
        seen = await self._containers.inspect(handle.flow_id)
        await self._networks.ensure(handle.network, seen.labels.get(LABEL_TENANT, ""), anew=True)

    async def _fails(self, handle: Handle, seen: Observation) -> Observation:
        """Its command was not found at create: see whether it has ended, as is to be expected."""
        if seen.running:
            await self._ending.ended(handle, FAILURE_SECONDS)
            seen = await self._containers.inspect(handle.flow_id)
        reason = self._suspects[handle.runtime_id]
        if not seen.running and seen.exit_code in (126, 127):
            raise StartFailed(
                f"flow '{seen.id}' could not be started: {reason}", exit_code=seen.exit_code, reason=reason
            )
        self._suspects.pop(handle.runtime_id, None)
        return seen


def refuse_moved(volumes: tuple[str, ...]) -> None:
    """The engine follows links when it mounts, at each start; what was allowed is the folder that was there at the create.

    A flow that may write into a root could put a link to anywhere in the place of another flow's folder in between. (What
    changes within the milliseconds between this look and the engine's own is not seen.)

    :raises PathNotAllowed:
    """
    for source in volumes:
        if os.path.realpath(source) != source:
            raise PathNotAllowed(
                f"'{source}' was a folder when the flow was made, and leads elsewhere now", path=source
            )
