"""What following a flow's log and following its figures have in common: a subscription, made again after a lost connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, Self, TypeVar

from flow_manager.client.errors import ServiceRefused, Unreachable

# Events that may come before the reply that tells whose they are.
MAX_UNKNOWN = 100

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]


class OfSubscription(Protocol):
    """An event of one subscription. `ended`: nothing more comes, and why."""

    @property
    def subscription_id(self) -> str: ...
    @property
    def ended(self) -> str | None: ...


Item = TypeVar("Item")
Event = TypeVar("Event", bound=OfSubscription)


class Router(Generic[Event]):
    """Gives each event to the follower whose subscription it names."""

    def __init__(self) -> None:
        self.followers: list[Follower[Any, Event]] = []
        # A reply wakes its caller a moment after the first events are here.
        self._unknown: deque[Event] = deque(maxlen=MAX_UNKNOWN)

    def received(self, event: Event) -> None:
        for follower in self.followers:
            if follower.subscription_id == event.subscription_id:
                follower.received(event)
                return
        self._unknown.append(event)

    def claim(self, follower: Follower[Any, Event]) -> None:
        mine = [event for event in self._unknown if event.subscription_id == follower.subscription_id]
        for event in mine:
            self._unknown.remove(event)
            follower.received(event)

    def lost(self) -> None:
        self._unknown.clear()
        for follower in self.followers:
            follower.connection_lost()

    def close(self) -> None:
        for follower in list(self.followers):
            follower.close()


class Follower(Generic[Item, Event]):
    """An asynchronous iterator of what a flow's subscription tells; base of `LogFollower` and `UsageFollower`.

    It ends when the flow is deleted, or when it is closed.

    :raises ServiceRefused, Unreachable: from the iteration, when following can't begin or can't go on.
    """

    # The two client events, and what is followed, as people say it.
    follow: str
    unfollow: str
    noun: str

    def __init__(self, call: Call, router: Router[Event], container_id: str, waiting: deque[Item]) -> None:
        self.subscription_id: str | None = None
        self._call = call
        self._router = router
        self._container_id = container_id
        self._waiting = waiting
        self._changed = asyncio.Event()
        self._began = False
        self._ended: str | None = None
        router.followers.append(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while True:
            if self._waiting:
                return self._waiting.popleft()
            if self._ended is not None:
                self._leave()
                if self._ended in ("", "container_not_found"):
                    raise StopAsyncIteration
                raise ServiceRefused({"code": self._ended, "message": f"{self.noun} can't be followed any more"})
            if self.subscription_id is None:
                await self._subscribe()
                continue
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop following."""
        subscription_id = self.subscription_id
        self.close()
        if subscription_id is not None:
            try:
                await self._call(self.unfollow, {"subscription_id": subscription_id})
            except (ServiceRefused, Unreachable):
                pass  # the connection is gone, and the subscription with it

    def close(self) -> None:
        self._ended = ""
        self._leave()
        self._changed.set()

    def received(self, event: Event) -> None:
        """The router's."""
        self._take(event)
        # A service that ends is come back to.
        if event.ended is not None and event.ended != "shutting_down":
            self._ended = event.ended
        self._changed.set()

    def connection_lost(self) -> None:
        self.subscription_id = None
        self._changed.set()

    async def _subscribe(self) -> None:
        try:
            answer = await self._call(self.follow, self._request())
        except ServiceRefused as refused:
            if self._began and refused.code == "container_not_found":
                self._ended = refused.code  # it was deleted meanwhile
                return
            raise
        self._began = True
        self.subscription_id = answer["subscription_id"]
        self._router.claim(self)

    def _request(self) -> dict[str, Any]:
        return {"container_id": self._container_id}

    def _take(self, event: Event) -> None:
        """Put what it tells into `_waiting`, which is bounded."""
        raise NotImplementedError

    def _leave(self) -> None:
        if self in self._router.followers:
            self._router.followers.remove(self)
