"""Who follows which flow's wakes: each step goes to those connections alone, and stops with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flow_manager.contract import requests
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.wake import ContainerWakeEvent, IdleExplanation, WakeEvent, WakeHistory
from flow_manager.errors import FlowManagerError, TooManyStreams, UnknownEvent
from flow_manager.gateway.clients import Client
from flow_manager.gateway.frames import event_frame

WakeListener = Callable[[str, WakeEvent], None]

# Flows whose wakes one connection may follow: more than anybody has, and an end to what a faulty client can pile up.
MAX_FOLLOWED = 10_000


class Waker(Protocol):
    """What the gateway needs of those who let flows sleep and wake them."""

    async def wake_container(self, principal: Principal, request: requests.WakeContainer) -> ContainerStatus: ...
    async def sleep_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus: ...
    async def set_idle_policy(self, principal: Principal, request: requests.SetIdlePolicy) -> IdleExplanation: ...
    def explain_container(self, principal: Principal, request: requests.OneContainer) -> IdleExplanation: ...
    def subscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> WakeHistory:
        """The current attempt's steps; `listener(flow_id, step)` gets the ones after them, in the loop."""
        ...

    def unsubscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> None: ...


class NoWaker:
    """Of a service without watchers: these events don't exist there."""

    async def wake_container(self, principal: Principal, request: requests.WakeContainer) -> ContainerStatus:
        raise _none("wake_container")

    async def sleep_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        raise _none("sleep_container")

    async def set_idle_policy(self, principal: Principal, request: requests.SetIdlePolicy) -> IdleExplanation:
        raise _none("set_idle_policy")

    def explain_container(self, principal: Principal, request: requests.OneContainer) -> IdleExplanation:
        raise _none("explain_container")

    def subscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> WakeHistory:
        raise _none("subscribe_wake_events")

    def unsubscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> None:
        raise _none("unsubscribe_wake_events")


def _none(event: str) -> UnknownEvent:
    return UnknownEvent(f"this service lets no flow sleep: there is no event '{event}'", event=event)


class WakeSubscriptions:
    """One a connection and flow; a new one replaces it. Synchronous throughout, so that no step comes twice or is missed."""

    def __init__(self, waker: Waker, resolve: Callable[[Principal, str], str]) -> None:
        self._waker = waker
        self._resolve = resolve
        self._listeners: dict[Client, dict[str, WakeListener]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._listeners.values()))

    def subscribe(self, client: Client, request: requests.OneContainer) -> WakeHistory:
        """:raises ContainerNotFound: also for what the caller may not see. :raises TooManyStreams:"""
        flow_id = self._resolve(client.principal, request.container_id)
        followed = self._listeners.get(client, {})
        if flow_id in followed:
            self._leave(client, flow_id)
        elif len(followed) >= MAX_FOLLOWED:
            raise TooManyStreams(f"this connection follows {MAX_FOLLOWED} flows already", limit=MAX_FOLLOWED)

        def listener(of: str, event: WakeEvent) -> None:
            step = ContainerWakeEvent.model_construct(container_id=of, **dict(event))
            client.send(event_frame("wake_event", step.model_dump_json().encode()))

        history = self._waker.subscribe_wake_events(
            client.principal, requests.OneContainer(container_id=flow_id), listener
        )
        self._listeners.setdefault(client, {})[flow_id] = listener
        return history

    def unsubscribe(self, client: Client, request: requests.OneContainer) -> None:
        """Harmless where there is no subscription. :raises ContainerNotFound: no such flow, and none followed."""
        followed = self._listeners.get(client, {})
        # A flow that was deleted meanwhile is known by its id alone.
        known = request.container_id in followed
        self._leave(client, request.container_id if known else self._resolve(client.principal, request.container_id))

    def drop(self, client: Client) -> None:
        """The connection is gone, and all of its subscriptions with it."""
        for flow_id in list(self._listeners.get(client, ())):
            self._leave(client, flow_id)

    def _leave(self, client: Client, flow_id: str) -> None:
        followed = self._listeners.get(client, {})
        listener = followed.pop(flow_id, None)
        if listener is None:
            return
        if not followed:
            del self._listeners[client]
        try:
            self._waker.unsubscribe_wake_events(client.principal, requests.OneContainer(container_id=flow_id), listener)
        except FlowManagerError:
            pass  # the flow is gone, and its watcher with it
