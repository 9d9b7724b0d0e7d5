"""Following the activity log: every entry once and in order, across lost connections and restarts of the service."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from flow_manager.client.errors import ConnectionLost
from flow_manager.contract.activity import Activity, Subscription

# Entries that may wait for a slow consumer. Past it they are let go and asked for again by cursor: nothing is lost.
MAX_WAITING = 10_000

Subscribe = Callable[[dict[str, Any]], Awaitable[Subscription]]


class ActivityFeed:
    """An asynchronous iterator of entries. It ends when it is closed, or when a newer feed of the same client takes over.

    `cursor` and `stream` say how far the consumer has come; `gaps` counts how often the service said that entries were
    missing (retention, or another log than before).

    :raises ServiceRefused, Unreachable: from the iteration, when the subscription can't be made or kept.
    """

    def __init__(
        self,
        subscribe: Subscribe,
        *,
        after: int | None = None,
        stream: str | None = None,
        container_id: str | None = None,
        types: list[str] | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.cursor = after
        self.stream = stream
        self.gaps = 0
        self._subscribe_call = subscribe
        self._filter = {"container_id": container_id, "types": types}
        self._max_waiting = max_waiting
        self._waiting: deque[Activity] = deque()
        # The newest that was taken in, which is ahead of `cursor` by what waits.
        self._newest = after
        self._newest_stream = stream
        self._changed = asyncio.Event()
        self._subscribed = False
        # While a subscription is being made, entries are held: only its answer says whether old cursors count again.
        self._held: list[Activity] | None = None
        self._overflowed = False
        self._losses = 0
        self._ended = False

    def __aiter__(self) -> ActivityFeed:
        return self

    async def __anext__(self) -> Activity:
        while True:
            if self._waiting:
                entry = self._waiting.popleft()
                self.cursor, self.stream = entry.cursor, entry.stream
                return entry
            if self._ended:
                raise StopAsyncIteration
            if self._overflowed or not self._subscribed:
                await self.open()
                continue
            self._changed.clear()
            await self._changed.wait()

    async def open(self) -> None:
        """Subscribe now (the iteration would do it by itself): what happens after this returns will be seen.

        :raises ServiceRefused, Unreachable:
        """
        while not self._ended and (self._overflowed or not self._subscribed):
            self._held = []
            self._subscribed = self._overflowed = False
            losses = self._losses
            request = {"after": self._newest, "stream": self._newest_stream, **self._filter}
            try:
                answer = await self._subscribe_call({key: value for key, value in request.items() if value is not None})
            except ConnectionLost:
                continue
            finally:
                held, self._held = self._held, None
            # The connection may have gone between the answer and now: the subscription went with it.
            if losses == self._losses:
                self._begin(answer, held)

    def close(self) -> None:
        """End the iteration once what already came has been taken."""
        self._ended = True
        self._changed.set()

    def received(self, entry: Activity) -> None:
        """The client's: an entry came."""
        if self._held is not None:
            self._held.append(entry)
        elif self._subscribed and not self._overflowed:
            self._take(entry)

    def lost(self) -> None:
        """The client's: the connection is gone (or has failed for good), and the subscription with it."""
        self._losses += 1
        self._subscribed = False
        self._changed.set()

    def _begin(self, answer: Subscription, held: list[Activity]) -> None:
        if answer.gap:
            self.gaps += 1
        if answer.gap or answer.stream != self._newest_stream:
            # Another log, or one that was set back: its cursors say nothing about ours.
            restarted = answer.gap or self._newest_stream is not None
            self._newest = None if restarted else self._newest
        self._newest_stream = answer.stream
        self._subscribed = True
        for entry in held:
            self._take(entry)
        if self._newest is None and answer.replayed == 0:
            self._newest = answer.cursor
        if not self._waiting:
            self.cursor, self.stream = self._newest, self._newest_stream

    def _take(self, entry: Activity) -> None:
        if self._newest is not None and entry.stream == self._newest_stream and entry.cursor <= self._newest:
            return
        if len(self._waiting) >= self._max_waiting:
            self._overflowed = True
            return
        self._newest, self._newest_stream = entry.cursor, entry.stream
        self._waiting.append(entry)
        self._changed.set()
