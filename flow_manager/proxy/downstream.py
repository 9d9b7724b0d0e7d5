"""One client's connection: reads requests one at a time, frames their bodies, and has each forwarded or held."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol, cast

from flow_manager.proxy.chunked import BadChunk, ChunkedDecoder
from flow_manager.proxy.classify import Asked, counts_as_use, is_reserved
from flow_manager.proxy.edge import READ_SIZE, Edge
from flow_manager.proxy.forward import Forward
from flow_manager.proxy.headers import client_address, forwarded_lines, own_response_bytes, plain_address
from flow_manager.proxy.held_request import HELD_BODY, Headers
from flow_manager.proxy.holding import Holding
from flow_manager.proxy.parser import (
    MAX_HEAD,
    MAX_REQUEST_LINE,
    Refused,
    RequestHead,
    parse_request,
    too_large,
    too_long,
)
from flow_manager.proxy.problems import Problem
from flow_manager.proxy.tunnel import Tunnel
from flow_manager.proxy.watched import Use, WatchedFlow

# Seconds: for a head once it has begun; between requests; for the next bytes of a body that we are ready to read; for a
# client to read anything of what waits for it; for what a refused client still sends.
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
BODY_SECONDS = 120.0
STALLED_SECONDS = 300.0
LINGER_SECONDS = 2.0
# A client that ended its side of the connection may have left, or only have said all that it wants to say. It is given this
# long; after that only one that is being sent something, and takes it, is still there.
HALF_CLOSED_SECONDS = 1.0
# Bytes that may wait for a client that doesn't read; then the flow is read no more.
WRITE_HIGH = 128 * 1024
_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# struct linger: on, 0 seconds.
_RESET = struct.pack("ii", 1, 0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# In a head or between two; in a body; the request is complete; after 101; waiting for the client to close; gone.
_HEAD, _BODY, _ANSWERING, _TUNNEL, _LINGER, _GONE = range(6)
# Why reading is paused.
_FULL, _AHEAD = 1, 2


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


class ClientConnection(asyncio.BufferedProtocol):
    __slots__ = (
        "_authority",
        "_buffer",
        "_decoder",
        "_forwarded",
        "_half_closed",
        "_left",
        "_paused_reading",
        "_scanned",
        "_state",
        "_transport",
        "_written",
        "deadline",
        "edge",
        "exchange",
        "head",
        "paused",
        "peer",
        "pending",
        "pending_size",
    )

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.peer = ""
        self.deadline = 0.0
        self.head: RequestHead | None = None
        self.exchange: Exchange | None = None
        # The client doesn't read what it is sent.
        self.paused = False
        # The body as far as it is read and not sent on.
        self.pending: list[bytes] = []
        self.pending_size = 0
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._state = _HEAD
        self._buffer = b""
        self._scanned = 0
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._paused_reading = 0
        self._half_closed = False
        self._written = False
        self._authority = b""
        self._forwarded = b""

    # --- asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = plain_address(str(name[0])) if isinstance(name, tuple) and name else "unknown"
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.edge.add(self)
        self.deadline = self.edge.now + IDLE_SECONDS

    def get_buffer(self, sizehint: int) -> memoryview:
        exchange = self.exchange
        if exchange is not None and not exchange.ready_for_body and self._state == _BODY:
            return self.edge.buffer[: max(1, min(READ_SIZE, HELD_BODY - self.pending_size))]
        return self.edge.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.edge.buffer[:nbytes])
        state = self._state
        if state == _HEAD:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_heads()
        elif state == _BODY:
            self._buffer = data
            self.deadline = self.edge.now + BODY_SECONDS
            self._read_body()
        elif state == _TUNNEL:
            cast(Tunnel, self.exchange).send_body(data, False)
            return
        elif state == _ANSWERING:
            self._buffer += data
        else:
            return
        if len(self._buffer) >= READ_SIZE and self._state in (_HEAD, _ANSWERING):
            self._pause(_AHEAD)

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self._state == _TUNNEL and exchange is not None:
            return exchange.client_eof()
        if self._state != _ANSWERING:
            return False  # nothing asked, or only half a request: it has left
        self._half_closed = True
        self._written = False
        self.edge.loop.call_later(HALF_CLOSED_SECONDS, self._still_there, self.head)
        return True

    def _still_there(self, head: RequestHead | None) -> None:
        if self._state == _ANSWERING and self.head is head and not self._written:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _GONE
        self.deadline = 0.0
        self._buffer = b""
        self.pending = []
        self.edge.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self.paused = True
        if self._state in (_BODY, _ANSWERING, _TUNNEL):
            self.deadline = self.edge.now + STALLED_SECONDS
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._state in (_BODY, _ANSWERING, _TUNNEL):
            self.deadline = 0.0
        if self.exchange is not None:
            self.exchange.resume()
        elif self._state == _HEAD:
            self._read_heads()

    # --- deadlines and the end ----------------------------------------------------------------------------------------

    def expire(self) -> None:
        self.deadline = 0.0
        if self._state == _HEAD and not self._buffer and not self.paused:
            self._transport.close()
        elif self._state == _HEAD and not self.paused:
            self.refuse(Refused(408, "too_slow", f"a request's head must come within {HEAD_SECONDS:g} s"))
        elif self._state == _BODY and not self.paused:
            self._spoilt(Refused(408, "too_slow", f"nothing of the body came for {BODY_SECONDS:g} s"))
        else:
            self.abort()

    def shut(self) -> None:
        if self.exchange is not None:
            self.exchange.shut()
        else:
            self._transport.close()

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
        self._state = _LINGER
        self.deadline = self.edge.now + LINGER_SECONDS
        transport.write_eof()
        self._paused_reading = 0
        transport.resume_reading()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_heads(self) -> None:
        while self._state == _HEAD and self._buffer and not self.paused:
            buffer = self._buffer
            if buffer[0] in b"\r\n":
                # An empty line before a request is passed over (RFC 9112, section 2.2): old clients end bodies with one.
                if buffer.startswith(b"\r\n"):
                    self._buffer = buffer[2:]
                    continue
                if buffer != b"\r":
                    self.refuse(Refused(400, "bad_head", "a lone line end before the request"))
                return
            end = buffer.find(b"\r\n\r\n", self._scanned)
            if end < 0:
                self._wait_for_head()
                return
            self._scanned = 0
            end += 4
            self._buffer = buffer[end:] if end < len(buffer) else b""
            try:
                head = parse_request(buffer if end == len(buffer) else buffer[:end])
                self._begin(head)
            except Refused as refused:
                self.refuse(refused)

    def _wait_for_head(self) -> None:
        self._unpause(_AHEAD)
        buffer = self._buffer
        if not self._scanned:
            self.deadline = self.edge.now + HEAD_SECONDS
        self._scanned = max(1, len(buffer) - 3)
        if len(buffer) > MAX_REQUEST_LINE and buffer.find(b"\r\n", 0, MAX_REQUEST_LINE + 2) < 0:
            self.refuse(too_long())
        elif len(buffer) >= MAX_HEAD:
            self.refuse(too_large())

    def _begin(self, head: RequestHead) -> None:
        self.head = head
        self.deadline = 0.0
        self._state = _ANSWERING
        if head.length:
            self._left = head.length
            self._state = _BODY
        elif head.chunked:
            self._decoder = ChunkedDecoder()
            self._state = _BODY
        if self._state == _BODY:
            self._unpause(_AHEAD)
        watcher = self.edge.routes.find(head.authority)
        if watcher is None:
            self.answer(Problem(404, "unknown_host", "no flow is served under that Host"))
            return
        if head.expects and self._state == _BODY and not self._buffer:
            self.write(_CONTINUE)
        if watcher.ready_now() and not (head.target.startswith(b"/.flow") and _is_reserved(head.target)):
            self._forward(watcher)
        else:
            self.hold(watcher)
        if self._state == _BODY and self.exchange is not None:
            self.deadline = self.edge.now + BODY_SECONDS
            if self._buffer:
                self._read_body()

    def _read_body(self) -> None:
        data, self._buffer = self._buffer, b""
        done = False
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except BadChunk as error:
                self._spoilt(Refused(400, "bad_body", str(error)))
                return
            done = self._decoder.done
            if done:
                self._buffer = self._decoder.rest
                self._decoder = None
        elif len(data) >= self._left:
            if len(data) > self._left:
                data, self._buffer = data[: self._left], data[self._left :]
            self._left = 0
            done = True
        else:
            self._left -= len(data)
        if done:
            self._state = _ANSWERING
            self.deadline = 0.0
        exchange = self.exchange
        if exchange is not None and exchange.ready_for_body:
            exchange.send_body(data, done)
        elif data:
            self.pending.append(data)
            self.pending_size += len(data)
            if not done and self.pending_size >= HELD_BODY:
                self._pause(_FULL)

    def _spoilt(self, refused: Refused) -> None:
        """The rest of the body won't come: whoever reads it must not take it for complete."""
        exchange, self.exchange = self.exchange, None
        started = exchange is not None and exchange.started
        if exchange is not None:
            exchange.client_gone()
        if started:
            self._transport.abort()
        else:
            self.refuse(refused)

    def _pause(self, reason: int) -> None:
        if reason == _FULL:
            self.deadline = 0.0
        if not self._paused_reading:
            self._transport.pause_reading()
        self._paused_reading |= reason

    def _unpause(self, reason: int) -> None:
        if self._paused_reading & reason:
            self._paused_reading &= ~reason
            if not self._paused_reading and not self._transport.is_closing():
                self._transport.resume_reading()

    # --- for the exchange ---------------------------------------------------------------------------------------------

    @property
    def request_complete(self) -> bool:
        return self._state != _BODY

    def may_keep(self, head: RequestHead) -> bool:
        """Whether another request may follow the response that begins now."""
        return head.keep_alive and self._state == _ANSWERING and not self._half_closed and not self.edge.closing

    def write(self, data: bytes) -> None:
        self._written = True
        self._transport.write(data)

    def hold_back(self, full: bool) -> None:
        """The flow takes no more of the body for now, or again."""
        if not full:
            self._unpause(_FULL)
            if self._state == _BODY:
                self.deadline = self.edge.now + BODY_SECONDS
        elif self._state in (_BODY, _TUNNEL):
            self._pause(_FULL)

    def take_pending(self) -> tuple[list[bytes], bool]:
        """The body as far as it is read, and whether that is all."""
        pending, self.pending, self.pending_size = self.pending, [], 0
        return pending, self._state == _ANSWERING

    def finished(self, keep: bool) -> None:
        """The response is complete."""
        self.exchange = None
        if not keep or self._state != _ANSWERING or self._half_closed or self.edge.closing:
            if self._state == _BODY or self._buffer:
                self._linger()
            else:
                self._transport.close()
            return
        self.head = None
        self.pending = []
        self.pending_size = 0
        self._state = _HEAD
        self.deadline = self.edge.now + IDLE_SECONDS
        self._unpause(_FULL if len(self._buffer) >= READ_SIZE else _FULL | _AHEAD)
        if self._buffer:
            # Not from here: a long row of pipelined requests that are answered at once would be as deep a stack.
            self.edge.loop.call_soon(self._read_heads)

    def tunnel(self, tunnel: Tunnel) -> None:
        self.exchange = tunnel
        self._state = _TUNNEL
        self.deadline = 0.0
        self._unpause(_FULL | _AHEAD)
        buffer, self._buffer = self._buffer, b""
        if buffer:
            tunnel.send_body(buffer, False)

    def hold(self, watcher: WatchedFlow) -> None:
        holding = Holding(self, watcher)
        self.exchange = holding
        holding.start()

    def _forward(self, watcher: WatchedFlow) -> None:
        forward = Forward(self, watcher, lease=self.lease_for(watcher))
        self.exchange = forward
        forward.start()

    def lease_for(self, watcher: WatchedFlow) -> Use | None:
        """None for what doesn't count as use: probes, and icons that browsers fetch by themselves."""
        head, policy = self.head, watcher.policy
        assert head is not None
        if (policy is not None and policy.probes) or b"icon" in head.target:
            asked = Asked(head.method.decode("ascii"), head.target.decode("latin-1"), head.pairs(), self.claimed_peer())
            if not counts_as_use(asked, policy):
                return None
        return watcher.use("http", self.peer)

    def claimed_peer(self) -> str:
        return self.peer if self.head is None else client_address(self.peer, self.head.claims, self.edge.trust)

    def forwarded_lines(self) -> bytes:
        head = self.head
        assert head is not None
        if head.claims:
            return forwarded_lines(self.peer, head.authority, head.claims, self.edge.trust)
        if head.authority != self._authority:
            self._authority = head.authority
            self._forwarded = forwarded_lines(self.peer, head.authority, [], self.edge.trust)
        return self._forwarded

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


def _is_reserved(target: bytes) -> bool:
    return is_reserved(target.partition(b"?")[0].decode("latin-1"))
