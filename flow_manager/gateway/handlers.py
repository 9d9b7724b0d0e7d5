"""One handler per event of the catalogue, each `(sid, data)`: `data` is the event's payload, or its model already made.

A handler returns what the reply's `data` is made of, or raises a `FlowManagerError`. Those that are not coroutines are
answered from memory, at once. Permissions, replies, deadlines and repeats are the dispatcher's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from flow_manager.contract import inside, requests
from flow_manager.contract.activity import ActivityPage, Subscription
from flow_manager.contract.inside import (
    ExecContainer,
    ExecResult,
    Following,
    FollowLogs,
    GetLogs,
    Logs,
    OneSubscription,
    UpdateContainer,
)
from flow_manager.contract.models import (
    ContainerInfo,
    ContainerStatus,
    Deleted,
    MessageDelivery,
    WireModel,
)
from flow_manager.contract.principal import Principal
from flow_manager.contract.replies import invalid_request
from flow_manager.contract.wake import IdleExplanation, WakeHistory
from flow_manager.gateway.clients import Client, Clients
from flow_manager.gateway.logs import LogSubscriptions
from flow_manager.gateway.readings import Reader
from flow_manager.gateway.subscriptions import Subscriptions
from flow_manager.gateway.terminals import TerminalViews
from flow_manager.gateway.usage import UsageSubscriptions
from flow_manager.gateway.wakes import Waker, WakeSubscriptions

Request = TypeVar("Request", bound=WireModel)


class Manager(Protocol):
    """What the gateway needs of ContainerManager."""

    async def create_container(self, principal: Principal, request: requests.CreateContainer) -> ContainerInfo: ...
    async def start_container(self, principal: Principal, request: requests.StartContainer) -> ContainerStatus: ...
    async def stop_container(self, principal: Principal, request: requests.StopContainer) -> ContainerStatus: ...
    async def restart_container(self, principal: Principal, request: requests.RestartContainer) -> ContainerStatus: ...
    async def pause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus: ...
    async def unpause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus: ...
    async def kill_container(self, principal: Principal, request: requests.KillContainer) -> ContainerStatus: ...
    async def update_container(self, principal: Principal, request: UpdateContainer) -> ContainerInfo: ...
    async def rollback_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerInfo: ...
    async def delete_container(self, principal: Principal, request: requests.DeleteContainer) -> Deleted: ...
    async def send_message(self, principal: Principal, request: requests.SendMessage) -> MessageDelivery: ...
    async def exec_container(self, principal: Principal, request: ExecContainer) -> ExecResult: ...
    def get_status(self, principal: Principal, request: requests.OneContainer) -> ContainerStatus: ...
    def get_container(self, principal: Principal, request: requests.OneContainer) -> ContainerInfo: ...
    def list_containers(self, principal: Principal, request: requests.ListContainers) -> list[ContainerInfo]: ...
    def resolve(self, principal: Principal, ref: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Later:
    """Of a handler that is mostly answered from memory: not this time."""

    work: Callable[[], Awaitable[Any]]


class SocketIOEventHandler:
    """`handle_<event>` for each event."""

    def __init__(
        self,
        manager: Manager,
        clients: Clients,
        subscriptions: Subscriptions,
        waker: Waker,
        wakes: WakeSubscriptions,
        reader: Reader,
        logs: LogSubscriptions,
        usage: UsageSubscriptions,
        terminals: TerminalViews | None = None,
    ) -> None:
        self._manager = manager
        self._clients = clients
        self._subscriptions = subscriptions
        self._waker = waker
        self._wakes = wakes
        self._terminals = terminals or TerminalViews(None)
        self._reader = reader
        self._logs = logs
        self._usage = usage

    async def handle_create_container(self, sid: str, data: Any) -> ContainerInfo:
        client, request = self._asked(sid, requests.CreateContainer, data)
        return await self._manager.create_container(client.principal, request)

    async def handle_start_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.StartContainer, data)
        return await self._manager.start_container(client.principal, request)

    async def handle_stop_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.StopContainer, data)
        return await self._manager.stop_container(client.principal, request)

    async def handle_restart_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.RestartContainer, data)
        return await self._manager.restart_container(client.principal, request)

    async def handle_pause_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.ChangeContainer, data)
        return await self._manager.pause_container(client.principal, request)

    async def handle_unpause_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.ChangeContainer, data)
        return await self._manager.unpause_container(client.principal, request)

    async def handle_kill_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.KillContainer, data)
        return await self._manager.kill_container(client.principal, request)

    async def handle_delete_container(self, sid: str, data: Any) -> Deleted:
        client, request = self._asked(sid, requests.DeleteContainer, data)
        return await self._manager.delete_container(client.principal, request)

    async def handle_update_container(self, sid: str, data: Any) -> ContainerInfo:
        client, request = self._asked(sid, UpdateContainer, data)
        return await self._manager.update_container(client.principal, request)

    async def handle_rollback_container(self, sid: str, data: Any) -> ContainerInfo:
        client, request = self._asked(sid, requests.ChangeContainer, data)
        return await self._manager.rollback_container(client.principal, request)

    async def handle_sleep_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.ChangeContainer, data)
        return await self._waker.sleep_container(client.principal, request)

    async def handle_wake_container(self, sid: str, data: Any) -> ContainerStatus:
        client, request = self._asked(sid, requests.WakeContainer, data)
        return await self._waker.wake_container(client.principal, request)

    async def handle_set_idle_policy(self, sid: str, data: Any) -> IdleExplanation:
        client, request = self._asked(sid, requests.SetIdlePolicy, data)
        return await self._waker.set_idle_policy(client.principal, request)

    def handle_explain_container(self, sid: str, data: Any) -> IdleExplanation:
        client, request = self._asked(sid, requests.OneContainer, data)
        return self._waker.explain_container(client.principal, request)

    def handle_subscribe_wake_events(self, sid: str, data: Any) -> WakeHistory:
        client, request = self._asked(sid, requests.OneContainer, data)
        return self._wakes.subscribe(client, request)

    def handle_unsubscribe_wake_events(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, requests.OneContainer, data)
        self._wakes.unsubscribe(client, request)

    def handle_get_status(self, sid: str, data: Any) -> ContainerStatus | Later:
        client, request = self._asked(sid, requests.OneContainer, data)
        status = self._manager.get_status(client.principal, request)
        if status.state == "running" and self._reader.status_is_due(client.principal, request):
            return Later(lambda: self._reader.status(client.principal, request))
        return status

    def handle_get_container(self, sid: str, data: Any) -> ContainerInfo:
        client, request = self._asked(sid, requests.OneContainer, data)
        return self._manager.get_container(client.principal, request)

    def handle_list_containers(self, sid: str, data: Any) -> list[ContainerInfo]:
        client, request = self._asked(sid, requests.ListContainers, data)
        return self._manager.list_containers(client.principal, request)

    async def handle_send_message(self, sid: str, data: Any) -> MessageDelivery:
        client, request = self._asked(sid, requests.SendMessage, data)
        return await self._manager.send_message(client.principal, request)

    async def handle_exec_container(self, sid: str, data: Any) -> ExecResult:
        client, request = self._asked(sid, ExecContainer, data)
        return await self._manager.exec_container(client.principal, request)

    async def handle_attach_container(self, sid: str, data: Any) -> inside.Attached:
        client, request = self._asked(sid, inside.AttachContainer, data)
        return await self._terminals.attach(client, request)

    async def handle_terminal_input(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, inside.TerminalInput, data)
        await self._terminals.write(client, request)

    async def handle_terminal_resize(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, inside.TerminalResize, data)
        await self._terminals.resize(client, request)

    def handle_detach_container(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, inside.OneTerminal, data)
        self._terminals.detach(client, request)

    async def handle_get_logs(self, sid: str, data: Any) -> Logs:
        client, request = self._asked(sid, GetLogs, data)
        return await self._reader.get_logs(client.principal, request)

    async def handle_follow_logs(self, sid: str, data: Any) -> Following:
        client, request = self._asked(sid, FollowLogs, data)
        return await self._logs.follow(client, request)

    def handle_unfollow_logs(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, OneSubscription, data)
        self._logs.unfollow(client, request)

    def handle_follow_usage(self, sid: str, data: Any) -> Following:
        client, request = self._asked(sid, requests.OneContainer, data)
        return self._usage.follow(client, request)

    def handle_unfollow_usage(self, sid: str, data: Any) -> None:
        client, request = self._asked(sid, OneSubscription, data)
        self._usage.unfollow(client, request)

    async def handle_subscribe_activity(self, sid: str, data: Any) -> Subscription:
        client, request = self._asked(sid, requests.SubscribeActivity, data)
        return await self._subscriptions.subscribe(client, request)

    def handle_unsubscribe_activity(self, sid: str, data: Any) -> None:
        client, _ = self._asked(sid, requests.Nothing, data)
        self._subscriptions.unsubscribe(client)

    async def handle_list_activity(self, sid: str, data: Any) -> ActivityPage:
        client, request = self._asked(sid, requests.ListActivity, data)
        return await self._subscriptions.page(client.principal, request)

    def _asked(self, sid: str, model: type[Request], data: Any) -> tuple[Client, Request]:
        """Who asks, and for what.

        :raises InvalidRequest: with each field's path and reason.
        """
        client = self._clients[sid]
        if type(data) is model:
            return client, data
        try:
            return client, model.model_validate({} if data is None else data)
        except ValidationError as exc:
            raise invalid_request(exc) from None
