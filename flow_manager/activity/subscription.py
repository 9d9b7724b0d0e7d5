"""Replay for a subscriber that comes back: from its cursor on, then live, with neither gap nor repeat.

How to use it, in the loop's thread:

    while True:
        plan = begin_replay(stream, after=after, stream_id=stream_id, tenant=…, container_id=…, types=…)
        async for page in plan.pages():
            send page
        if plan.upto >= stream.head:
            break
        after, stream_id = plan.upto, None        # more was published meanwhile: read it rather than hold it in memory
    join the live entries past plan.upto          # no `await` since the look at the head

`begin_replay` fixes the head: what is at or below `upto` is replayed, what is beyond it comes live. The stream moves its head
and tells its listeners in one step of the loop, in cursor order; so an entry is on exactly one of the sides.

`gap` is final only once the pages are at their end: retention may cut while a slow subscriber is being served. It is true
whenever an entry may be missing, never false when one is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from flow_manager.store.base import StoredActivity

PAGE = 500


class ReadableStream(Protocol):
    """What of an ActivityStream a replay needs."""

    @property
    def stream(self) -> str: ...

    @property
    def head(self) -> int: ...

    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]: ...

    async def floor(self) -> int: ...


class ReplayPlan:
    """One replay. `after`: entries past it are replayed, `upto`: as far as this (the cursor at which live entries follow)."""

    def __init__(
        self,
        source: ReadableStream,
        *,
        after: int,
        upto: int,
        gap: bool,
        tenant: str | None,
        container_id: str | None,
        types: Sequence[str] | None,
        page: int,
    ) -> None:
        self.stream = source.stream
        self.after = after
        self.upto = upto
        self.gap = gap
        self.replayed = 0
        self._source = source
        self._tenant = tenant
        self._container_id = container_id
        self._types = None if types is None else tuple(types)
        self._page = page

    async def pages(self) -> AsyncIterator[list[StoredActivity]]:
        """The entries to replay, oldest first, a page at a time. To be gone through once, to its end.

        :raises SystemFailure: the store can't be read.
        """
        position = self.after
        while position < self.upto:
            entries = await self._source.read(
                after=position,
                before=self.upto + 1,
                limit=self._page,
                tenant=self._tenant,
                container_id=self._container_id,
                types=self._types,
            )
            # Looked at after the read: what was cut before it can't have come with it.
            if await self._source.floor() > position:
                self.gap = True
            if entries:
                position = entries[-1].entry.cursor
                self.replayed += len(entries)
                yield entries
            if len(entries) < self._page:
                return


def begin_replay(
    stream: ReadableStream,
    *,
    after: int | None,
    stream_id: str | None = None,
    tenant: str | None = None,
    container_id: str | None = None,
    types: Sequence[str] | None = None,
    page: int = PAGE,
) -> ReplayPlan:
    """Decide what to replay, without waiting for anything.

    Without `after`: nothing, live entries from now on. With an `after` beyond the head, or a `stream_id` that isn't this
    log's: the client's log is not this one (it was lost), so all that there is is replayed, and `gap` is true. With an
    `after` below what retention has kept `gap` turns true while the pages are read.
    """
    upto = stream.head
    gap = False
    if after is None:
        start = upto
    elif after > upto or (stream_id is not None and stream_id != stream.stream):
        start, gap = 0, True
    else:
        start = after
    return ReplayPlan(
        stream, after=start, upto=upto, gap=gap, tenant=tenant, container_id=container_id, types=types, page=page
    )
