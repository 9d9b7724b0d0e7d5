"""A request that the ready path can't simply forward: it waits, or is answered here.

`hold.slow_path(request, watcher, context)` decides what becomes of one. It runs as a task of the connection's own and must
end in exactly one of: `respond`, `start_stream` … `end`, or `forward`. When it returns without any, or raises, the
connection answers with a problem document; when the client leaves, `gone` is set and, a second later, the task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flow_manager.errors import FlowManagerError

if TYPE_CHECKING:
    from flow_manager.proxy.parser import RequestHead
    from flow_manager.proxy.watched import WatchedFlow

Headers = Sequence[tuple[bytes, bytes]]
# What is read of a held request's body; the rest stays in the client's socket until the upstream takes it.
HELD_BODY = 64 * 1024


class ClientGone(Exception):
    """The client left; nothing that is sent will arrive. Not a failure of ours: no need to catch or log it."""


class UpstreamRefused(FlowManagerError):
    """The flow refused the connection, or ended, before a byte of an answer; the request is whole and may be forwarded again."""

    code = "upstream_refused"
    type_name = "state_error"
    transient = True


class Connection(Protocol):
    """What the client's connection does for a held request (`downstream.ClientConnection`)."""

    def held_body(self) -> bytes: ...
    def respond(self, status: int, headers: Headers, body: bytes) -> None: ...
    def start_stream(self, status: int, headers: Headers) -> None: ...
    def write_stream(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def end_stream(self) -> None: ...
    async def forward_held(self, watcher: WatchedFlow, *, cold_start: bool) -> None: ...
    @property
    def answered(self) -> bool: ...


@dataclass(eq=False, slots=True)
class HeldRequest:
    """One request whose client waits. Byte strings are as the client sent them, checked for form alone.

    `headers` are all of them, in order, names in the client's own case. `host` is lower-case, without port and trailing
    dot. `peer` is the client's address (that which a trusted proxy in front vouches for).
    """

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    host: str
    peer: str
    head: RequestHead
    gone: asyncio.Event
    _connection: Connection

    @property
    def path(self) -> bytes:
        """The target without its query, as it came: percent-encoded, dots not resolved."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; `name` in lower case. None when there is none."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def upgrade(self) -> bytes | None:
        """What it wants to upgrade to, in lower case (`websocket`), or None."""
        return None if self.head.upgrade is None else self.head.upgrade.lower()

    @property
    def body(self) -> bytes:
        """What has been read of the body so far, at most `HELD_BODY` bytes; it is forwarded all the same."""
        return self._connection.held_body()

    @property
    def answered(self) -> bool:
        """Whether a response was begun."""
        return self._connection.answered

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """The whole response. Content-Length, Connection and Date are added; for HEAD the body is left out. Ends the request.

        Does nothing when the client has left. :raises RuntimeError: a response was begun already.
        """
        self._connection.respond(status, headers, body)

    def start_stream(self, status: int, headers: Headers) -> None:
        """Begin a response whose length isn't known; then `write`, `drain` and `end`."""
        self._connection.start_stream(status, headers)

    def write(self, data: bytes) -> None:
        """Send a piece of the stream. Never blocks: who writes much awaits `drain` after each."""
        self._connection.write_stream(data)

    async def drain(self) -> None:
        """Wait until the client has read enough. :raises ClientGone:"""
        await self._connection.drain()

    def end(self) -> None:
        """The stream is complete."""
        self._connection.end_stream()

    async def forward(self, watcher: WatchedFlow, *, cold_start: bool = True) -> None:
        """Send it to the flow, which must be ready, and its response to the client; return when that has ended.

        `cold_start` adds `X-Flow-Cold-Start: true` to the response. While the flow is ready but doesn't take the connection
        yet, this tries again for a while. :raises UpstreamRefused: it doesn't, or it sleeps again; nothing was sent to the
        client and nothing of the request is lost: wake, and call this again. :raises ClientGone: the client left first.
        Any other failure has been answered (502) when this returns.
        """
        await self._connection.forward_held(watcher, cold_start=cold_start)
