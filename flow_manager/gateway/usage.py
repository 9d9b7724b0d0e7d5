"""Who follows what a flow uses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flow_manager.contract.inside import Following, OneSubscription, UsageSample
from flow_manager.contract.models import ResourceUsage
from flow_manager.contract.requests import OneContainer
from flow_manager.errors import TooManyStreams
from flow_manager.gateway.clients import Client
from flow_manager.gateway.frames import event_frame
from flow_manager.gateway.readings import Reader
from flow_manager.util.ids import new_short_id

# More flows than a person can look at, and an end to what a faulty client can pile up.
MAX_FOLLOWED = 1000


class UsageSubscription:
    """One `follow_usage`. A newer figure takes the place of one that a slow client has not read."""

    def __init__(
        self, client: Client, subscription_id: str, flow_id: str, on_end: Callable[[UsageSubscription], None]
    ) -> None:
        self.client = client
        self.id = subscription_id
        self.flow_id = flow_id
        self._on_end = on_end
        self._last = (ResourceUsage(), datetime.min)

    def sampled(self, usage: ResourceUsage, at: datetime) -> None:
        self._last = (usage, at)
        self._send(None)

    def end(self, code: str) -> None:
        self._last = (ResourceUsage(), self._last[1])
        self._send(code)
        self._on_end(self)

    def _send(self, ended: str | None) -> None:
        usage, at = self._last
        sample = UsageSample(
            subscription_id=self.id, container_id=self.flow_id, resource_usage=usage, timestamp=at, ended=ended
        )
        self.client.send(event_frame("resource_usage", sample.model_dump_json().encode(), f"usage-{self.id}"))


class UsageSubscriptions:
    """All of them, by connection. Synchronous throughout."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._by_client: dict[Client, dict[str, UsageSubscription]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    def follow(self, client: Client, request: OneContainer) -> Following:
        """:raises ContainerNotFound, TooManyStreams:"""
        if len(self._by_client.get(client, ())) >= MAX_FOLLOWED:
            raise TooManyStreams(f"this connection follows {MAX_FOLLOWED} flows already", limit=MAX_FOLLOWED)
        subscription_id = new_short_id("use")

        def make(flow_id: str) -> UsageSubscription:
            made = UsageSubscription(client, subscription_id, flow_id, self._leave)
            self._by_client.setdefault(client, {})[subscription_id] = made
            return made

        self._source.follow_usage(client.principal, request, make)
        return Following(subscription_id=subscription_id)

    def unfollow(self, client: Client, request: OneSubscription) -> None:
        """Harmless where there is no such subscription (any more)."""
        if (found := self._by_client.get(client, {}).get(request.subscription_id)) is not None:
            self._leave(found)

    def drop(self, client: Client) -> None:
        """The connection is gone, and all of its subscriptions with it."""
        for subscription in list(self._by_client.get(client, {}).values()):
            self._leave(subscription)

    def _leave(self, subscription: UsageSubscription) -> None:
        self._source.leave_usage(subscription.flow_id, subscription)
        followed = self._by_client.get(subscription.client, {})
        followed.pop(subscription.id, None)
        if not followed:
            self._by_client.pop(subscription.client, None)
