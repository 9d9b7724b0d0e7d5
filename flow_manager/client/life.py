"""The part of FlowManagerClient that changes flows: their life, their code, their sleep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flow_manager.client.inside import WAKE_TIMEOUT
from flow_manager.client.wakes import WakeFollower
from flow_manager.client.wire import incoming
from flow_manager.contract.models import ContainerConfig, ContainerInfo, ContainerStatus, Deleted, IdlePolicy
from flow_manager.contract.wake import IdleExplanation, WakeHistory

# The service gives an engine call up to two minutes; its own answer is better than ours, so we wait a little longer.
OPERATION_TIMEOUT = 180.0
# A create may pull an image, which is only bounded by its progress.
CREATE_TIMEOUT = 1800.0


class ChangesFlows:
    """Base of FlowManagerClient, which has the rest."""

    _wakes: WakeFollower

    async def call(self, event: str, request: Mapping[str, Any], *, timeout: float = 0.0) -> Any:
        raise NotImplementedError

    async def create_container(
        self,
        config: ContainerConfig | Mapping[str, Any],
        *,
        start: bool = False,
        request_id: str | None = None,
        timeout: float = CREATE_TIMEOUT,
    ) -> ContainerInfo:
        fields = config.model_dump(exclude_unset=True) if isinstance(config, ContainerConfig) else dict(config)
        request = {**fields, **({"start": True} if start else {}), "request_id": request_id}
        return incoming(ContainerInfo, await self.call("create_container", request, timeout=timeout))

    async def start_container(
        self, container_id: str, *, wait: Literal["started", "ready"] = "started", request_id: str | None = None
    ) -> ContainerStatus:
        return await self._change("start_container", container_id, request_id, wait=wait)

    async def stop_container(
        self,
        container_id: str,
        *,
        signal: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> ContainerStatus:
        return await self._change("stop_container", container_id, request_id, signal=signal, timeout=timeout)

    async def restart_container(
        self, container_id: str, *, timeout: float | None = None, request_id: str | None = None
    ) -> ContainerStatus:
        return await self._change("restart_container", container_id, request_id, timeout=timeout)

    async def pause_container(self, container_id: str, *, request_id: str | None = None) -> ContainerStatus:
        return await self._change("pause_container", container_id, request_id)

    async def unpause_container(self, container_id: str, *, request_id: str | None = None) -> ContainerStatus:
        return await self._change("unpause_container", container_id, request_id)

    async def kill_container(
        self, container_id: str, *, signal: str = "SIGKILL", request_id: str | None = None
    ) -> ContainerStatus:
        return await self._change("kill_container", container_id, request_id, signal=signal)

    async def update_container(
        self, container_id: str, code_path: str, *, request_id: str | None = None
    ) -> ContainerInfo:
        """`code_path`: a file, folder or tar archive on the service's machine, below the folders that its settings allow."""
        request = {"container_id": container_id, "code_path": code_path, "request_id": request_id}
        return incoming(ContainerInfo, await self.call("update_container", request, timeout=WAKE_TIMEOUT))

    async def rollback_container(self, container_id: str, *, request_id: str | None = None) -> ContainerInfo:
        request = {"container_id": container_id, "request_id": request_id}
        return incoming(ContainerInfo, await self.call("rollback_container", request, timeout=WAKE_TIMEOUT))

    async def delete_container(
        self, container_id: str, *, force: bool = False, request_id: str | None = None
    ) -> Deleted:
        request = {"container_id": container_id, "force": force, "request_id": request_id}
        return incoming(Deleted, await self.call("delete_container", request, timeout=OPERATION_TIMEOUT))

    async def sleep_container(self, container_id: str, *, request_id: str | None = None) -> ContainerStatus:
        return await self._change("sleep_container", container_id, request_id)

    async def wake_container(
        self, container_id: str, *, wait: bool = True, request_id: str | None = None
    ) -> ContainerStatus:
        request = {"container_id": container_id, "wait": wait, "request_id": request_id}
        return incoming(ContainerStatus, await self.call("wake_container", request, timeout=WAKE_TIMEOUT))

    async def set_idle_policy(
        self, container_id: str, idle: IdlePolicy | Mapping[str, Any], *, request_id: str | None = None
    ) -> IdleExplanation:
        """The whole policy: a field that is left out gets its default."""
        fields = idle.model_dump(mode="json", exclude_unset=True) if isinstance(idle, IdlePolicy) else dict(idle)
        request = {"container_id": container_id, "idle": fields, "request_id": request_id}
        return incoming(IdleExplanation, await self.call("set_idle_policy", request))

    async def explain_container(self, container_id: str) -> IdleExplanation:
        return incoming(IdleExplanation, await self.call("explain_container", {"container_id": container_id}))

    async def subscribe_wake_events(self, container_id: str) -> WakeHistory:
        """The steps of the current attempt; those after them come to `on_wake`, also after a lost connection."""
        return await self._wakes.follow(container_id)

    async def unsubscribe_wake_events(self, container_id: str) -> None:
        self._wakes.leave(container_id)
        await self.call("unsubscribe_wake_events", {"container_id": container_id})

    async def _change(
        self, event: str, container_id: str, request_id: str | None, *, timeout: float | None = None, **fields: Any
    ) -> ContainerStatus:
        request = {"container_id": container_id, "request_id": request_id, **fields}
        if timeout is not None:
            request["timeout"] = float(timeout)
        data = await self.call(event, request, timeout=OPERATION_TIMEOUT + (timeout or 0))
        return incoming(ContainerStatus, data)
