"""Work that is carried through, whoever waits for it: a clean-up, say, that a second cancellation must not cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Carried:
    """Holds what it carries. asyncio itself keeps weak references alone: a task that `shield` was given and nobody else knows
    can be collected as garbage in the middle of its work (see the note at `asyncio.shield`)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def through(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. A caller that is cancelled ends its own waiting alone."""
        task = asyncio.get_running_loop().create_task(work, name="carried-through")
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller, unless it went away: then nobody asks, and nothing warns of it
