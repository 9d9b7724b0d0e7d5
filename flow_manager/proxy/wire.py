"""The client's end of the wire: writing, pausing, answers of our own, and closing so that what was said is still heard."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol, cast

from flow_manager.proxy.edge import Edge
from flow_manager.proxy.headers import own_response_bytes
from flow_manager.proxy.held_request import Headers
from flow_manager.proxy.parser import Refused, RequestHead
from flow_manager.proxy.problems import Problem

# Seconds for which a client that was refused may go on sending.
LINGER_SECONDS = 2.0
_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# struct linger: on, 0 seconds.
_RESET = struct.pack("ii", 1, 0)

# In a head or between two; in a body; the request is complete; after 101; waiting for the client to close; gone.
HEAD, BODY, ANSWERING, TUNNEL, LINGER, GONE = range(6)
# Why reading is paused: the flow takes no more of the body; the client is too far ahead with further requests.
FULL, AHEAD = 1, 2


class Exchange(Protocol):
    """What the request under way is with: `Forward`, `Holding` or `Tunnel`."""

    ready_for_body: bool
    started: bool

    def send_body(self, data: bytes, done: bool) -> None: ...
    def client_eof(self) -> bool: ...
    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def shut(self) -> None: ...


class ClientWire(asyncio.BufferedProtocol):
    """What `downstream.ClientConnection` builds on. `_buffer` is what was read and not looked at yet."""

    __slots__ = (
        "_buffer",
        "_half_closed",
        "_paused_reading",
        "_state",
        "_transport",
        "_written",
        "deadline",
        "edge",
        "exchange",
        "head",
        "paused",
    )

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.deadline = 0.0
        self.head: RequestHead | None = None
        self.exchange: Exchange | None = None
        # The client doesn't read what it is sent.
        self.paused = False
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._state = HEAD
        self._buffer = b""
        self._paused_reading = 0
        self._half_closed = False
        # Something was sent since the client ended its side.
        self._written = False

    def may_keep(self, head: RequestHead) -> bool:
        """Whether another request may follow the response that begins now."""
        if self._half_closed and not self._buffer:
            return False
        return head.keep_alive and self._state == ANSWERING and not self.edge.closing

    def finished(self, keep: bool) -> None:
        """The response is complete."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        self._written = True
        self._transport.write(data)

    def _pause(self, reason: int) -> None:
        if reason == FULL:
            self.deadline = 0.0
        if not self._paused_reading:
            self._transport.pause_reading()
        self._paused_reading |= reason

    def _unpause(self, reason: int) -> None:
        if self._paused_reading & reason:
            self._paused_reading &= ~reason
            if not self._paused_reading and not self._transport.is_closing():
                self._transport.resume_reading()

    # --- the end ---------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        """What was written is still sent."""
        self._transport.close()

    def half_close(self, seconds: float) -> None:
        """Say goodbye in a tunnel; the client has some seconds to do the same."""
        self.deadline = self.edge.now + seconds
        if not self._transport.is_closing():
            self._transport.write_eof()

    def cut_off(self, *, reset: bool) -> None:
        """The response can't be completed, and its client must be able to tell."""
        self.exchange = None
        if reset:
            handle = self._transport.get_extra_info("socket")
            if handle is not None:
                # A plain close would end the body as if it were complete.
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close without destroying what was sent: a close with unread input resets the connection, and the client would lose the
        answer that says why (RFC 9112, section 9.6)."""
        transport = self._transport
        self._buffer = b""
        if self._half_closed or transport.is_closing():
            transport.close()
            return
        self._state = LINGER
        self.deadline = self.edge.now + LINGER_SECONDS
        transport.write_eof()
        self._paused_reading = 0
        transport.resume_reading()

    # --- answers of our own -------------------------------------------------------------------------------------------

    def refuse(self, refused: Refused) -> None:
        """Where the next request would begin isn't known: the connection ends."""
        extra = [(b"Allow", _ALLOWED)] if refused.status == 405 else []
        problem = Problem(refused.status, refused.code, refused.detail)
        self._answer(problem.status, [*problem.headers(), *extra], problem.body(), keep=False)

    def answer(self, problem: Problem) -> None:
        self.respond(problem.status, problem.headers(), problem.body())

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self._answer(status, headers, body, keep=self.head is not None and self.may_keep(self.head))

    def _answer(self, status: int, headers: Headers, body: bytes, *, keep: bool) -> None:
        if self._transport.is_closing():
            return
        head = self.head
        framing = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
        if not keep:
            framing += b"Connection: close\r\n"
        elif head is not None and head.minor == 0:
            framing += b"Connection: keep-alive\r\n"
        raw = own_response_bytes(status, headers, framing=framing, date=self.edge.date())
        bodiless = (head is not None and head.method == b"HEAD") or status in (204, 304)
        self.write(raw if bodiless else raw + body)
        if keep:
            self.finished(True)
        else:
            self.exchange = None
            self._linger()
