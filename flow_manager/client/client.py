"""FlowManagerClient: one method for each client event, contract models in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from flow_manager.client.errors import ServiceRefused
from flow_manager.client.feed import ActivityFeed
from flow_manager.client.following import Router
from flow_manager.client.inside import TERMINAL_TIMEOUT, LooksInside
from flow_manager.client.life import ChangesFlows
from flow_manager.client.session import Session
from flow_manager.client.terminals import RemoteTerminals
from flow_manager.client.wakes import WakeFollower
from flow_manager.client.wire import checked_url, incoming, outgoing, reply_data
from flow_manager.contract.activity import Activity, ActivityPage, Subscription
from flow_manager.contract.inside import LogLines, TerminalClosed, TerminalOutput, UsageSample
from flow_manager.contract.models import (
    ContainerInfo,
    ContainerMessage,
    ContainerState,
    ContainerStatus,
    MessageDelivery,
)
from flow_manager.contract.wake import ContainerWakeEvent, WakeHistory

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_TIMEOUT = 10.0
RECONNECT_FOR = 60.0
READ_TIMEOUT = 30.0
# How long after its own deadline the service may answer.
ANSWER_GRACE = 15.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class FlowManagerClient(ChangesFlows, LooksInside):
    """A connection to a service, made again when it is lost.

    A call under way when that happens is repeated with the same `request_id`, so that nothing is done twice. Every call
    is bounded; after `reconnect_for` seconds without a connection all of them end with `Unreachable`.

    :param url: of the control port. The token is never part of it.
    :param on_message: called with what a flow sent on its own; only while activity is subscribed to.
    :param on_status: called with each change of a flow's state; likewise.
    :param on_wake: called with each step of the wakes that are followed (`subscribe_wake_events`).
    :param on_connection: called with True and False as the connection comes and goes after the first.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        reconnect_for: float = RECONNECT_FOR,
        on_message: Callable[[ContainerMessage], None] | None = None,
        on_status: Callable[[ContainerStatus], None] | None = None,
        on_wake: Callable[[ContainerWakeEvent], None] | None = None,
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        self.url = checked_url(url)
        self._reconnect_for = reconnect_for
        self._on_message = on_message
        self._on_status = on_status
        self._on_connection = on_connection
        self._wakes = WakeFollower(self._subscribe_wakes, self._flow_id, lambda step: _tell(on_wake, step))
        self._feed: ActivityFeed | None = None
        self._logs: Router[LogLines] = Router()
        self._usage: Router[UsageSample] = Router()
        self._terminals = RemoteTerminals(lambda event, request: self.call(event, request, timeout=TERMINAL_TIMEOUT))
        self._session = Session(
            self.url,
            token,
            connect_timeout=connect_timeout,
            reconnect_for=reconnect_for,
            on_event=self._event,
            on_loss=self._lost,
            on_connection=self._connection_changed,
        )

    async def __aenter__(self) -> Self:
        """:raises ServiceRefused, Unreachable:"""
        await self._session.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._feed is not None:
            self._feed.close()
        self._logs.close()
        self._usage.close()
        await self._wakes.close()
        await self._terminals.close()
        await self._session.close()

    @property
    def hello(self) -> dict[str, Any]:
        """What the service said of itself at the (last) connect: version, instance, stream, principal, runtimes …"""
        return self._session.hello

    # --- reading, talking, following; see the bases for the other events -------------------------------------------------

    async def get_status(self, container_id: str) -> ContainerStatus:
        return incoming(ContainerStatus, await self.call("get_status", {"container_id": container_id}))

    async def get_container(self, container_id: str) -> ContainerInfo:
        return incoming(ContainerInfo, await self.call("get_container", {"container_id": container_id}))

    async def list_containers(
        self,
        *,
        runtime: str | None = None,
        state: ContainerState | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[ContainerInfo]:
        request = {"runtime": runtime, "state": state, "labels": dict(labels) if labels else None}
        return incoming(list[ContainerInfo], await self.call("list_containers", request))

    async def send_message(
        self,
        container_id: str,
        message: Mapping[str, Any],
        *,
        expect_reply: bool = False,
        timeout: float = 30.0,
        wake: bool = False,
        request_id: str | None = None,
    ) -> MessageDelivery:
        """`timeout`: seconds that the flow may take to reply."""
        request = {
            "container_id": container_id,
            "message": dict(message),
            "expect_reply": expect_reply,
            "timeout": float(timeout),
            "wake": wake,
            "request_id": request_id,
        }
        return incoming(MessageDelivery, await self.call("send_message", request, timeout=timeout + ANSWER_GRACE))

    def subscribe_activity(
        self,
        *,
        after: int | None = None,
        stream: str | None = None,
        container_id: str | None = None,
        types: list[str] | None = None,
    ) -> ActivityFeed:
        """Follow what happens: `async for entry in client.subscribe_activity(after=…)`; see `ActivityFeed`.

        The service keeps one subscription a connection, so a new feed ends the one before.
        """
        if self._feed is not None:
            self._feed.close()
        self._feed = ActivityFeed(self._subscribe, after=after, stream=stream, container_id=container_id, types=types)
        return self._feed

    async def unsubscribe_activity(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        await self.call("unsubscribe_activity", {})

    async def list_activity(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        container_id: str | None = None,
        types: list[str] | None = None,
    ) -> ActivityPage:
        request = {"before": before, "limit": limit, "container_id": container_id, "types": types}
        return incoming(ActivityPage, await self.call("list_activity", request))

    async def call(self, event: str, request: Mapping[str, Any], *, timeout: float = READ_TIMEOUT) -> Any:
        """Send any event of the catalogue; gives the reply's `data`. Fields that are None are left out.

        :raises ServiceRefused: also for a request that its model refuses, without asking the service.
        :raises Unreachable: within `timeout` seconds.
        """
        return reply_data(event, await self._session.call(event, outgoing(event, request), timeout))

    async def _subscribe(self, request: dict[str, Any]) -> Subscription:
        """One try on the connection that there is: the feed holds what comes meanwhile, and asks anew when it is lost."""
        payload = outgoing("subscribe_activity", request)
        reply = await self._session.call_once("subscribe_activity", payload, self._reconnect_for + READ_TIMEOUT)
        return incoming(Subscription, reply_data("subscribe_activity", reply))

    async def _subscribe_wakes(self, flow: str) -> WakeHistory:
        return incoming(WakeHistory, await self.call("subscribe_wake_events", {"container_id": flow}))

    async def _flow_id(self, flow: str) -> str:
        return (await self.get_status(flow)).id

    def _connection_changed(self, connected: bool) -> None:
        if connected:
            self._wakes.connected()
            self._terminals.connected()
        if self._on_connection is not None:
            self._on_connection(connected)

    def _lost(self) -> None:
        self._logs.lost()
        self._usage.lost()
        if self._feed is not None:
            self._feed.lost()
        if self._session.failure is not None:
            self._terminals.lost(self._session.failure)

    def _event(self, name: str, data: Any) -> None:
        try:
            if name == "activity" and self._feed is not None:
                self._feed.received(incoming(Activity, data))
            elif name == "container_message":
                _tell(self._on_message, incoming(ContainerMessage, data))
            elif name == "container_status":
                _tell(self._on_status, incoming(ContainerStatus, data))
            elif name == "log_lines":
                self._logs.received(incoming(LogLines, data))
            elif name == "resource_usage":
                self._usage.received(incoming(UsageSample, data))
            elif name == "terminal_output":
                self._terminals.received(name, incoming(TerminalOutput, data))
            elif name == "terminal_closed":
                self._terminals.received(name, incoming(TerminalClosed, data))
            elif name == "wake_event":
                self._wakes.received(incoming(ContainerWakeEvent, data))
        except ServiceRefused as exc:
            _log.warning("an event %s that can't be read was left out: %s", name, exc.message)


def _tell(callback: Callable[[T], None] | None, value: T) -> None:
    """A caller's callback that raises must not end the connection for everybody else."""
    if callback is None:
        return
    try:
        callback(value)
    except Exception:
        _log.exception("a callback failed")
