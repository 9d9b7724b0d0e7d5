"""Terminals of a client: bytes both ways, also across a lost connection."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flow_manager.client.errors import ServiceRefused, Unreachable
from flow_manager.contract.inside import Attached, TerminalClosed, TerminalOutput
from flow_manager.util.ids import new_short_id

_log = logging.getLogger(__name__)

Call = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

# Output that was received and not read, from which on we look away, in bytes; the service keeps the last 1 MiB meanwhile.
HIGH_WATER = 4 * 1024 * 1024
# Events that may come before the reply that names their terminal.
EARLY = 256


class RemoteTerminal:
    """One open terminal, as `FlowManagerClient.attach_container` gives it. `read` until it gives nothing, then `exit_code`.

    `position`: offset of the next byte that `read` gives. `skipped`: bytes that were written and are not to be had any more,
    because more than 1 MiB was written while nobody read.
    """

    def __init__(self, call: Call, container_id: str, terminal_id: str, offset: int, size: tuple[int, int]) -> None:
        self.id = terminal_id
        self.exit_code: int | None = None
        self.skipped = 0
        self.position = offset
        self._call = call
        self._container_id = container_id
        self._size = size
        self._received = offset
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._away: asyncio.Task[Any] | None = None  # we look away: no room
        self._over = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._over

    async def read(self) -> bytes:
        """What it wrote next; empty when it has ended, or was detached.

        :raises ServiceRefused, Unreachable: it can't be followed any more.
        """
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            if self._over:
                return b""
            if self._away is not None:
                await self.rejoin()
            self._changed.clear()
            if not self._waiting and not self._over and self._failure is None:
                await self._changed.wait()
        data = self._waiting.popleft()
        self._bytes -= len(data)
        self.position += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Type; typed once, also where the connection is lost meanwhile. Returns once the program is not far behind.

        :raises ServiceRefused: `details.exit_code` where it has ended; `queue_full` where its program doesn't read.
        """
        await self._call("terminal_input", {"terminal_id": self.id, "data": data, "request_id": new_short_id("in")})

    async def resize(self, cols: int, rows: int) -> None:
        self._size = (cols, rows)
        await self._call("terminal_resize", {"terminal_id": self.id, "cols": cols, "rows": rows})

    async def detach(self) -> None:
        """Look at it no longer; it stays open for five minutes, to be joined with its id."""
        self._end(None)
        await self._call("detach_container", {"terminal_id": self.id})

    async def rejoin(self) -> None:
        """After a loss, or when we have room again: what we missed first."""
        cols, rows = self._size
        request = {
            "container_id": self._container_id,
            "terminal_id": self.id,
            "after": self._received,
            "cols": cols,
            "rows": rows,
        }
        try:
            if (away := self._away) is not None:
                # Only when that is answered does nothing more come of what we missed.
                await asyncio.wait({away})
                self._away = None
            await self._call("attach_container", request)
        except (ServiceRefused, Unreachable) as failed:
            self._failure = failed
            self._changed.set()

    # --- from the connection ------------------------------------------------------------------------------------------

    def output(self, offset: int, data: bytes) -> None:
        if self._away is not None or self._over:
            return
        if offset < self._received:  # what we have already
            data = data[self._received - offset :]
        elif offset > self._received:
            missed = offset - self._received
            self.skipped += missed
            self.position += missed
            self._received = offset
        if not data:
            return
        self._waiting.append(data)
        self._bytes += len(data)
        self._received += len(data)
        if self._bytes >= HIGH_WATER:
            # What comes now is dropped here, and asked for again.
            self._away = asyncio.get_running_loop().create_task(self._look_away())
        self._changed.set()

    def closed(self, exit_code: int | None) -> None:
        if self._away is None:
            self._end(exit_code)

    async def _look_away(self) -> None:
        try:
            await self._call("detach_container", {"terminal_id": self.id})
        except (ServiceRefused, Unreachable) as failed:
            _log.info("a terminal could not be left for a while: %s", failed)

    async def settled(self) -> None:
        if self._away is not None:
            self._away.cancel()
            await asyncio.wait({self._away})

    def fail(self, failure: Exception) -> None:
        if not self._over:
            self._failure = failure
            self._changed.set()

    def _end(self, exit_code: int | None) -> None:
        self._over, self.exit_code = True, exit_code
        self._changed.set()


class RemoteTerminals:
    """All that one client looks at; hands on what the connection brings."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._open: dict[str, RemoteTerminal] = {}
        self._attaching = 0
        # Output may come before whoever asked has seen the reply.
        self._early: deque[tuple[str, Any]] = deque(maxlen=EARLY)
        self._rejoining: set[asyncio.Task[None]] = set()

    async def attach(self, request: Mapping[str, Any]) -> RemoteTerminal:
        """:raises ServiceRefused, Unreachable:"""
        self._attaching += 1
        try:
            reply = Attached.model_validate(
                await self._call("attach_container", {**request, "request_id": new_short_id("at")})
            )
            terminal = RemoteTerminal(
                self._call,
                request["container_id"],
                reply.terminal_id,
                reply.offset,
                (request["cols"], request["rows"]),
            )
            self._open[terminal.id] = terminal
            for name, data in self._early:
                if data.terminal_id == terminal.id:
                    self.received(name, data)
            return terminal
        finally:
            self._attaching -= 1
            if not self._attaching:
                self._early.clear()

    def received(self, name: str, data: TerminalOutput | TerminalClosed) -> None:
        terminal = self._open.get(data.terminal_id)
        if terminal is None:
            if self._attaching:
                self._early.append((name, data))
        elif isinstance(data, TerminalOutput):
            terminal.output(data.offset, data.data)
        else:
            terminal.closed(data.exit_code)
            if terminal.over:
                del self._open[terminal.id]

    def connected(self) -> None:
        """The connection came back, and looks at nothing yet."""
        for terminal in list(self._open.values()):
            if terminal.over:
                del self._open[terminal.id]
                continue
            task = asyncio.get_running_loop().create_task(terminal.rejoin())
            self._rejoining.add(task)
            task.add_done_callback(self._rejoining.discard)

    def lost(self, failure: Exception) -> None:
        """For good."""
        for terminal in self._open.values():
            terminal.fail(failure)

    async def close(self) -> None:
        self.lost(Unreachable("the client is closed"))
        for task in list(self._rejoining):
            task.cancel()
        await asyncio.gather(*self._rejoining, return_exceptions=True)
        for terminal in self._open.values():
            await terminal.settled()
