"""Entries that wait for their transaction: bounded, and what is dropped is counted, so that a hole is never a silent one.

Pure: no I/O, no clock. The sink takes batches from the front; what could not be stored goes back there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flow_manager.store.base import ActivityDraft, StoredActivity

# Beyond this many waiting entries those kinds are dropped that a flow alone can make without end.
SOFT_LIMIT = 10_000
# Beyond this many everything is: with a full disk for hours, memory must not be what fails next.
HARD_LIMIT = 20_000
NUMEROUS_TYPES = frozenset({"container_message", "image_pulling", "actor_event"})


@dataclass(frozen=True, slots=True)
class Waiting:
    draft: ActivityDraft
    future: asyncio.Future[StoredActivity]


class Backlog:
    """A queue with two limits, and a count per tenant and type of what it refused."""

    def __init__(self, *, soft_limit: int = SOFT_LIMIT, hard_limit: int = HARD_LIMIT) -> None:
        self._soft_limit = soft_limit
        self._hard_limit = hard_limit
        self._waiting: deque[Waiting] = deque()
        self._dropped: dict[str, Counter[str]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting)

    @property
    def has_dropped(self) -> bool:
        return bool(self._dropped)

    def takes(self, draft: ActivityDraft) -> bool:
        """Whether there is room; when not, the draft is counted as dropped."""
        limit = self._soft_limit if draft.type in NUMEROUS_TYPES else self._hard_limit
        if len(self._waiting) < limit:
            return True
        self.count_dropped(draft)
        return False

    def put(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)

    def take(self, at_most: int) -> list[Waiting]:
        return [self._waiting.popleft() for _ in range(min(at_most, len(self._waiting)))]

    def put_back(self, batch: Iterable[Waiting]) -> None:
        """In front again, in the same order."""
        self._waiting.extendleft(reversed(list(batch)))

    def count_dropped(self, draft: ActivityDraft) -> None:
        self._dropped.setdefault(draft.tenant, Counter())[draft.type] += 1

    def take_dropped(self) -> dict[str, dict[str, int]]:
        """Tenant → type → how many went since the last call."""
        dropped, self._dropped = self._dropped, {}
        return {tenant: dict(counts) for tenant, counts in dropped.items()}
