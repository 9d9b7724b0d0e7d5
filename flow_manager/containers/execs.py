"""The commands under way: how many there may be, and that none of them outlives the service."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from flow_manager.contract.principal import Principal
from flow_manager.errors import ShuttingDown, TooManyStreams

T = TypeVar("T")
# Half of what one client may have under way: its commands alone never keep it from stopping a flow.
MAX_PER_PRINCIPAL = 32
# Each may hold 2 MiB of output, so that all of them hold 256 MiB at most.
MAX_IN_ALL = 128
# A runtime that can't end a command says so after a few seconds; this is longer.
END_SECONDS = 6.0


class Execs:
    """Each command runs in a task of its own: a caller that goes away ends nothing that it started."""

    def __init__(self) -> None:
        self._of: Counter[tuple[str, str]] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, principal: Principal, doing: Coroutine[Any, Any, T]) -> T:
        """:raises TooManyStreams: at once. :raises ShuttingDown: the service ended it."""
        owner = (principal.tenant, principal.name)
        if self._of[owner] >= MAX_PER_PRINCIPAL or len(self._tasks) >= MAX_IN_ALL:
            doing.close()
            limit = MAX_PER_PRINCIPAL if self._of[owner] >= MAX_PER_PRINCIPAL else MAX_IN_ALL
            raise TooManyStreams(f"{limit} commands are under way", limit=limit)
        task = asyncio.get_running_loop().create_task(doing, name="exec")
        self._of[owner] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda _done: self._over(owner, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ShuttingDown("the service is about to end, and ended the command") from None
            raise

    def _over(self, owner: tuple[str, str], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._of[owner] -= 1
        if self._of[owner] <= 0:
            del self._of[owner]
        if not task.cancelled():
            task.exception()  # told to the caller, unless it went away: then nobody asks, and nothing warns of it

    async def close(self, timeout: float) -> int:
        """Wait up to half of `timeout` seconds, then end what is left; how many were ended."""
        if not self._tasks:
            return 0
        await asyncio.wait(set(self._tasks), timeout=timeout / 2)
        cut = set(self._tasks)
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=END_SECONDS)
        return len(cut)
