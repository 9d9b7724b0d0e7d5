"""Telling watchers what happened, for runtimes that see it themselves (process, memory)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from flow_manager.runtimes.base import RuntimeEvent

# A watcher that is this far behind has lost the thread: it is told to look at everything again, which is cheaper than
# letting its queue grow for ever.
MAX_BEHIND = 4096


class EventHub:
    """Hands each event to every watcher; never waits for one."""

    def __init__(self, *, max_behind: int = MAX_BEHIND) -> None:
        self._max_behind = max_behind
        self._watchers: set[_Watcher] = set()
        self._closed = False

    def publish(self, event: RuntimeEvent) -> None:
        for watcher in self._watchers:
            watcher.put(event, self._max_behind)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """First a `resync`, then what is published, until `close`."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield RuntimeEvent("resync", reason="watch begins")
            while True:
                while watcher.waiting:
                    yield watcher.waiting.popleft()
                if self._closed:
                    return
                watcher.filled.clear()
                await watcher.filled.wait()
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End every watch, after what it still has to say."""
        self._closed = True
        for watcher in self._watchers:
            watcher.filled.set()


class _Watcher:
    def __init__(self) -> None:
        self.waiting: deque[RuntimeEvent] = deque()
        self.filled = asyncio.Event()

    def put(self, event: RuntimeEvent, max_behind: int) -> None:
        if len(self.waiting) >= max_behind:
            self.waiting.clear()
            self.waiting.append(RuntimeEvent("resync", reason="the watcher fell behind"))
        self.waiting.append(event)
        self.filled.set()
