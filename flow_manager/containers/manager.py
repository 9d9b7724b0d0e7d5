"""ContainerManager: every operation on flows, whoever asks. Each takes the principal and the request's model.

Reads are answered from memory, which the runtimes' events keep true: they cost no engine call and never wait.
"""

from __future__ import annotations

import asyncio

from flow_manager.containers import create, delete, exec, messages, pause, start, stop
from flow_manager.containers.core import Core, StatusListener
from flow_manager.containers.reconcile import Reconciler
from flow_manager.containers.recovery import recover
from flow_manager.containers.update import Updates
from flow_manager.contract import requests
from flow_manager.contract.inside import ExecContainer, ExecResult, UpdateContainer
from flow_manager.contract.models import ContainerInfo, ContainerStatus, Deleted, MessageDelivery
from flow_manager.contract.principal import Principal


class ContainerManager:
    """Open it before use; `close` waits for what is under way, up to a limit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reconciler = Reconciler(core)
        self._updates = Updates(core)

    async def open(self) -> None:
        self._core.started_at = self._core.now()
        await recover(self._core)
        self._reconciler.open()

    async def close(self, timeout: float) -> int:
        """Refuse what is new, wait up to `timeout` seconds for what is under way; how many operations were cut off."""
        self._core.closing = True
        cut, ended = await asyncio.gather(self._core.locks.drain(timeout), self._core.execs.close(timeout))
        await self._updates.close()
        await self._reconciler.close()
        return cut + ended

    def refuse_new(self) -> None:
        """From now on every change is answered with `shutting_down`."""
        self._core.closing = True

    def on_status(self, listener: StatusListener) -> None:
        """Call `listener(tenant, status)` at each change of a flow's status."""
        self._core.status_listeners.append(listener)

    # --- changes ------------------------------------------------------------------------------------------------------

    async def create_container(self, principal: Principal, request: requests.CreateContainer) -> ContainerInfo:
        return await create.create(self._core, principal, request)

    async def start_container(self, principal: Principal, request: requests.StartContainer) -> ContainerStatus:
        return await start.start(self._core, principal, request)

    async def stop_container(self, principal: Principal, request: requests.StopContainer) -> ContainerStatus:
        return await stop.stop(self._core, principal, request)

    async def restart_container(self, principal: Principal, request: requests.RestartContainer) -> ContainerStatus:
        return await stop.restart(self._core, principal, request)

    async def kill_container(self, principal: Principal, request: requests.KillContainer) -> ContainerStatus:
        return await stop.kill(self._core, principal, request)

    async def pause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        return await pause.pause(self._core, principal, request)

    async def unpause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        return await pause.unpause(self._core, principal, request)

    async def update_container(self, principal: Principal, request: UpdateContainer) -> ContainerInfo:
        return await self._updates.update(principal, request)

    async def rollback_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerInfo:
        return await self._updates.rollback(principal, request)

    async def delete_container(self, principal: Principal, request: requests.DeleteContainer) -> Deleted:
        return await delete.delete(self._core, principal, request)

    async def send_message(self, principal: Principal, request: requests.SendMessage) -> MessageDelivery:
        return await messages.send_message(self._core, principal, request)

    async def exec_container(self, principal: Principal, request: ExecContainer) -> ExecResult:
        return await exec.exec_container(self._core, principal, request)

    # --- reads --------------------------------------------------------------------------------------------------------

    def get_status(self, principal: Principal, request: requests.OneContainer) -> ContainerStatus:
        """:raises ContainerNotFound: also for what the principal may not see."""
        return self._core.status(self._core.table.resolve(principal, request.container_id))

    def get_container(self, principal: Principal, request: requests.OneContainer) -> ContainerInfo:
        """:raises ContainerNotFound: also for what the principal may not see."""
        return self._core.info(self._core.table.resolve(principal, request.container_id))

    def list_containers(self, principal: Principal, request: requests.ListContainers) -> list[ContainerInfo]:
        """:raises InvalidRequest: for a runtime that isn't configured."""
        if request.runtime is not None:
            self._core.runtime(request.runtime)
        wanted = request.labels or {}
        return [
            info
            for entry in self._core.table.of(principal)
            if (request.runtime is None or entry.record.runtime == request.runtime)
            and all(entry.config.labels.get(key) == value for key, value in wanted.items())
            and ((info := self._core.info(entry)).status == request.state or request.state is None)
        ]

    def resolve(self, principal: Principal, ref: str) -> str:
        """A flow's id. :raises ContainerNotFound:"""
        return self._core.table.resolve(principal, ref).id

    def states(self) -> dict[str, int]:
        """How many flows are in each state, for the metrics."""
        counts: dict[str, int] = {}
        for entry in self._core.table:
            state = self._core.info(entry).status
            counts[state] = counts.get(state, 0) + 1
        return counts
