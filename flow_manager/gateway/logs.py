"""Who follows which flow's log: each subscription has a short queue of its own, so that a client that reads slowly loses
lines (and is told how many), never its connection, and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

import orjson

from flow_manager.contract.inside import Following, FollowLogs, OneSubscription
from flow_manager.errors import Conflict, TooManyStreams
from flow_manager.gateway.clients import Client
from flow_manager.gateway.frames import event_frame
from flow_manager.gateway.readings import Batch, Reader
from flow_manager.settings.models import LimitSettings
from flow_manager.util.ids import new_short_id

# Bytes that may wait for one subscription, beside the last lines that it begins with.
QUEUE_BYTES = 256 * 1024
# Bytes that a client may have pending (of everything) before its log lines wait: far from where it is cut off.
ROOM = 128 * 1024
EVENT_BYTES = 64 * 1024
# Lines that come within these seconds go as one event. Also what lets the reply to `follow_logs` go first.
TOGETHER = 0.01
# How often a client that does not read is looked at, in seconds.
LOOK_AGAIN = 0.02


class LogSubscription:
    """One `follow_logs`. `on_end` is called once it has told its client that nothing more comes."""

    def __init__(
        self, client: Client, subscription_id: str, flow_id: str, on_end: Callable[[LogSubscription], None]
    ) -> None:
        self.client = client
        self.id = subscription_id
        self.flow_id = flow_id
        self._on_end = on_end
        self._begun = False
        self._waiting: deque[Batch] = deque()
        self._size = 0
        self._bound = QUEUE_BYTES
        self._lost = 0
        self._ended: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = orjson.dumps({"subscription_id": subscription_id, "container_id": flow_id})[:-1]

    @property
    def full(self) -> bool:
        return self._size > QUEUE_BYTES // 2 and not self.client.gone

    def take(self, batch: Batch) -> None:
        self._waiting.append(batch)
        self._size += batch.size
        if not self._begun:
            self._bound = QUEUE_BYTES + self._size
        while self._size > self._bound and len(self._waiting) > 1:
            dropped = self._waiting.popleft()
            self._size -= dropped.size
            self._lost += len(dropped.items)
        self._soon(TOGETHER)

    def lose(self, count: int) -> None:
        self._lost += count

    def end(self, code: str) -> None:
        self._ended = code
        self._soon(TOGETHER)

    def begin(self) -> None:
        """What it was given until now are the lines to begin with: there is room for them, however many they are."""
        self._begun = True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._size = 0

    def _soon(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._send)

    def _send(self) -> None:
        self._timer = None
        if self.client.gone:
            self.close()
            return
        while self._waiting:
            if self.client.pending_bytes > ROOM:
                self._soon(LOOK_AGAIN)
                return
            self._event(self._next())
        if self._ended is not None:
            self._event([])
            self._on_end(self)

    def _next(self) -> list[bytes]:
        """As many of the waiting lines as fit one event."""
        items: list[bytes] = []
        size = 0
        while self._waiting and (not items or size + self._waiting[0].size <= EVENT_BYTES):
            batch = self._waiting.popleft()
            self._size -= batch.size
            size += batch.size
            items.extend(batch.items)
        if not self._waiting:
            self._bound = QUEUE_BYTES
        return items

    def _event(self, items: list[bytes]) -> None:
        more = b""
        if self._lost:
            more += b',"lost":%d' % self._lost
            self._lost = 0
        if not items and self._ended is not None:
            more += b',"ended":' + orjson.dumps(self._ended)
        body = b'%b,"lines":[%b]%b}' % (self._head, b",".join(items), more)
        self.client.send(event_frame("log_lines", body))


class LogSubscriptions:
    """All of them, by connection."""

    def __init__(self, source: Reader, limits: LimitSettings) -> None:
        self._source = source
        self._limits = limits
        self._by_client: dict[Client, dict[str, LogSubscription | None]] = {}
        self._by_principal: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    async def follow(self, client: Client, request: FollowLogs) -> Following:
        """:raises ContainerNotFound, Unsupported, RuntimeUnavailable, TooManyStreams:
        :raises Conflict: the connection ended meanwhile.
        """
        subscription_id = new_short_id("log")
        self._reserve(client, subscription_id)
        made: list[LogSubscription] = []

        def make(flow_id: str) -> LogSubscription:
            made.append(LogSubscription(client, subscription_id, flow_id, self._leave))
            return made[0]

        try:
            await self._source.follow(client.principal, request, make)
        except BaseException:
            self._release(client, subscription_id)
            raise
        followed = self._by_client.get(client, {})
        if client.gone or subscription_id not in followed:
            self._leave(made[0])
            raise Conflict("the connection ended meanwhile", operation="follow_logs")
        followed[subscription_id] = made[0]
        made[0].begin()
        return Following(subscription_id=subscription_id)

    def unfollow(self, client: Client, request: OneSubscription) -> None:
        """Harmless where there is no such subscription (any more)."""
        subscription = self._by_client.get(client, {}).get(request.subscription_id)
        if subscription is not None:
            self._leave(subscription)

    def drop(self, client: Client) -> None:
        """The connection is gone, and all of its subscriptions with it."""
        for subscription_id, subscription in list(self._by_client.get(client, {}).items()):
            if subscription is not None:
                self._leave(subscription)
            else:
                self._release(client, subscription_id)  # `follow` notices

    def _leave(self, subscription: LogSubscription) -> None:
        subscription.close()
        self._source.leave(subscription.flow_id, subscription)
        self._release(subscription.client, subscription.id)

    def _reserve(self, client: Client, subscription_id: str) -> None:
        """:raises TooManyStreams:"""
        limit, shared = self._limits.log_followers, self._limits.log_followers_of_one
        who = (client.principal.tenant, client.principal.name)
        if len(self._by_client.get(client, ())) >= limit:
            raise TooManyStreams(f"this connection follows {limit} logs already", limit=limit)
        if self._by_principal[who] >= shared:
            raise TooManyStreams(f"{client.principal.name} follows {shared} logs already", limit=shared)
        self._by_client.setdefault(client, {})[subscription_id] = None
        self._by_principal[who] += 1

    def _release(self, client: Client, subscription_id: str) -> None:
        followed = self._by_client.get(client)
        if followed is None or subscription_id not in followed:
            return
        del followed[subscription_id]
        if not followed:
            del self._by_client[client]
        who = (client.principal.tenant, client.principal.name)
        self._by_principal[who] -= 1
        if self._by_principal[who] <= 0:
            del self._by_principal[who]
