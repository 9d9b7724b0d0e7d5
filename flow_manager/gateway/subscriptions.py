"""Activity subscriptions: replay from a cursor, then follow, with neither gap nor repeat.

Nothing is held back in memory while replaying: entries are stored before they are published, so replays follow each other,
each up to what was published when it began, until one ends with nothing new; then the client goes live in the same breath.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flow_manager.activity.subscription import ReadableStream, begin_replay
from flow_manager.contract.activity import ActivityPage, Subscription
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import ActivityFilter, ListActivity, SubscribeActivity
from flow_manager.errors import Conflict, ContainerNotFound
from flow_manager.gateway.clients import Client
from flow_manager.gateway.publisher import Publisher, Subscriber, activity_frame

# How often a replay looks whether a slow client has taken what it was sent, in seconds.
LOOK_AGAIN = 0.02


class Subscriptions:
    """One subscription a connection; a new one replaces it."""

    def __init__(self, stream: ReadableStream, publisher: Publisher, resolve: Callable[[Principal, str], str]) -> None:
        self._stream = stream
        self._publisher = publisher
        self._resolve = resolve

    async def subscribe(self, client: Client, request: SubscribeActivity) -> Subscription:
        """Replay what there is after the cursor, then follow.

        :raises ContainerNotFound: for a filter on a flow that the caller may not see.
        :raises Conflict: when another subscribe or unsubscribe of this connection came in between, or it ended.
        """
        container_id = await self._filtered(client.principal, request)
        self.unsubscribe(client)
        turn = client.subscription
        after, stream_id, replayed, gap = request.after, request.stream, 0, False
        while True:
            plan = begin_replay(
                self._stream,
                after=after,
                stream_id=stream_id,
                tenant=client.principal.tenant,
                container_id=container_id,
                types=request.types,
            )
            async for page in plan.pages():
                await self._room(client)
                _still_wanted(client, turn)
                for stored in page:
                    client.send(activity_frame(stored))
            _still_wanted(client, turn)
            replayed, gap = replayed + plan.replayed, gap or plan.gap
            if plan.upto >= self._stream.head:
                break
            # More was published while we read: read that, too, rather than hold it in memory.
            after, stream_id = plan.upto, None
        # No await since the look at the head: nothing was published in between.
        types = frozenset(request.types) if request.types is not None else None
        self._publisher.join(Subscriber(client, plan.upto, container_id, types))
        return Subscription(cursor=plan.upto, stream=plan.stream, replayed=replayed, gap=gap)

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
            container_id=await self._filtered(principal, request),
            types=request.types,
            newest_first=True,
        )
        entries = [item.entry for item in stored[: request.limit]]
        more = len(stored) > request.limit
        return ActivityPage(entries=entries, next=entries[-1].cursor if more else None)

    async def _filtered(self, principal: Principal, request: ActivityFilter) -> str | None:
        """The id of the flow asked for. A deleted one's history stays readable by its id, while there is any.

        :raises ContainerNotFound: no such flow, and none of the caller's tenant that there is an entry of.
        """
        wanted = request.container_id
        if wanted is None:
            return None
        try:
            return self._resolve(principal, wanted)
        except ContainerNotFound:
            if not await self._stream.read(limit=1, tenant=principal.tenant, container_id=wanted):
                raise
            return wanted

    async def _room(self, client: Client) -> None:
        """Wait until the client has taken most of what it was sent: a long replay is no reason to cut off who reads."""
        bound = client.socket.queue.limit // 4
        while not client.gone and client.pending_bytes > bound:  # noqa: ASYNC110 - a transport has no event for this
            await asyncio.sleep(LOOK_AGAIN)


def _still_wanted(client: Client, turn: int) -> None:
    if client.gone or client.subscription != turn:
        raise Conflict("another subscription of this connection took its place", operation="subscribe_activity")
