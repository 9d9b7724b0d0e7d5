"""What a memory flow wrote."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import datetime

from flow_manager.runtimes.inside import LogLine, LogPosition, LogStream
from flow_manager.runtimes.lines import pieces
from flow_manager.util.clock import Clock

KEPT_LINES = 1000


class MemoryLog:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._written = 0
        self._failures = 0
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self.lines: deque[LogLine] = deque(maxlen=KEPT_LINES)

    def write(self, text: str, stream: LogStream = "stdout") -> None:
        for piece in pieces(text.encode("utf-8", "replace")):
            self._written += 1
            self.lines.append(LogLine(stream, piece, self._clock.now(), (self._written,)))
        self.stir()

    def stir(self) -> None:
        """Let followers look: at new lines, or at what became of the flow."""
        self._changed.set()
        self._changed = asyncio.Event()

    def fail(self, error: Exception) -> None:
        """End all who follow now with it."""
        self._failures += 1
        self._error = error
        self.stir()

    def tail(self, count: int, since: datetime | None) -> list[LogLine]:
        lines = [*self.lines][-count:] if count > 0 else []
        return [line for line in lines if since is None or (line.timestamp is not None and line.timestamp >= since)]

    async def follow(self, after: LogPosition, ended: Callable[[], bool]) -> AsyncGenerator[list[LogLine], None]:
        position, failures = after, self._failures
        while True:
            if self._error is not None and self._failures != failures:
                raise self._error
            changed, over = self._changed, ended()
            lines = [line for line in self.lines if line.position > position]
            if lines:
                position = lines[-1].position
                yield lines
            elif over:
                return
            else:
                await changed.wait()
