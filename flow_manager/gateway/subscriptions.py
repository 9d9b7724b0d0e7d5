"""Activity subscriptions: replay from a cursor, then follow, with neither gap nor repeat.

Nothing is held back while replaying: entries are stored before they are published, so the replay reads the store until it
has caught up with what was published, and goes live in the same breath. The cursor that it reached then tells the
publisher what to leave out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from flow_manager.contract.activity import ActivityPage, Subscription
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import ActivityFilter, ListActivity, SubscribeActivity
from flow_manager.errors import Conflict
from flow_manager.gateway.clients import Client
from flow_manager.gateway.publisher import Publisher, Subscriber, activity_frame
from flow_manager.store.base import StoredActivity

PAGE = 500
# How often a replay looks whether a slow client has taken what it was sent, in seconds.
LOOK_AGAIN = 0.02


class Stream(Protocol):
    """What the gateway needs of ActivityStream. `head`: the newest cursor that was published."""

    @property
    def stream(self) -> str: ...
    @property
    def head(self) -> int: ...
    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]: ...
    async def floor(self) -> int: ...


class Subscriptions:
    """One subscription a connection; a new one replaces it."""

    def __init__(self, stream: Stream, publisher: Publisher, resolve: Callable[[Principal, str], str]) -> None:
        self._stream = stream
        self._publisher = publisher
        self._resolve = resolve

    async def subscribe(self, client: Client, request: SubscribeActivity) -> Subscription:
        """Replay what there is after the cursor, then follow.

        :raises ContainerNotFound: for a filter on a flow that the caller may not see.
        :raises Conflict: when another subscribe or unsubscribe of this connection came in between, or it ended.
        """
        container_id = self._filtered(client.principal, request)
        self.unsubscribe(client)
        turn = client.subscription
        subscriber = Subscriber(
            client, self._stream.head, container_id, frozenset(request.types) if request.types is not None else None
        )
        if request.after is None:
            self._publisher.join(subscriber)
            return Subscription(cursor=subscriber.after, stream=self._stream.stream, replayed=0, gap=False)
        lost = request.after > self._stream.head or request.stream not in (None, self._stream.stream)
        subscriber.after = 0 if lost else request.after
        replayed, cut = await self._replay(subscriber, turn)
        return Subscription(cursor=subscriber.after, stream=self._stream.stream, replayed=replayed, gap=lost or cut)

    def unsubscribe(self, client: Client) -> None:
        """Also ends a replay under way."""
        client.subscription += 1
        self._publisher.leave(client)

    async def page(self, principal: Principal, request: ListActivity) -> ActivityPage:
        """:raises ContainerNotFound: as above."""
        stored = await self._stream.read(
            before=request.before,
            limit=request.limit + 1,  # one more tells whether there is a next page
            tenant=principal.tenant,
            container_id=self._filtered(principal, request),
            types=request.types,
            newest_first=True,
        )
        entries = [item.entry for item in stored[: request.limit]]
        more = len(stored) > request.limit
        return ActivityPage(entries=entries, next=entries[-1].cursor if more else None)

    def _filtered(self, principal: Principal, request: ActivityFilter) -> str | None:
        return None if request.container_id is None else self._resolve(principal, request.container_id)

    async def _replay(self, subscriber: Subscriber, turn: int) -> tuple[int, bool]:
        """How many entries were sent, and whether retention had removed some of those asked for, also while it ran."""
        client = subscriber.client
        replayed, cut = 0, False
        while True:
            published = self._stream.head
            page = await self._stream.read(
                after=subscriber.after,
                limit=PAGE,
                tenant=client.principal.tenant,
                container_id=subscriber.container_id,
                types=sorted(subscriber.types) if subscriber.types is not None else None,
            )
            cut = cut or await self._stream.floor() > subscriber.after
            await self._room(client)
            if client.gone or client.subscription != turn:
                raise Conflict("another subscription of this connection took its place", operation="subscribe_activity")
            for stored in page:
                client.send(activity_frame(stored))
            replayed += len(page)
            if page:
                subscriber.after = page[-1].entry.cursor
            if len(page) < PAGE:
                subscriber.after = max(subscriber.after, published)
            if subscriber.after >= self._stream.head:
                # No await between this look and the joining: nothing can be published in between.
                self._publisher.join(subscriber)
                return replayed, cut

    async def _room(self, client: Client) -> None:
        """Wait until the client has taken most of what it was sent: a long replay is no reason to cut off who reads."""
        bound = client.socket.queue.limit // 4
        while not client.gone and client.pending_bytes > bound:  # noqa: ASYNC110 - a transport has no event for this
            await asyncio.sleep(LOOK_AGAIN)
