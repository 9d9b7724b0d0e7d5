"""One client's connection: reads requests one at a time, frames their bodies, and has each forwarded or held."""

from __future__ import annotations

import asyncio
from typing import cast

from flow_manager.proxy.asker import Asker
from flow_manager.proxy.chunked import BadChunk
from flow_manager.proxy.classify import is_reserved_target
from flow_manager.proxy.edge import READ_SIZE, Edge
from flow_manager.proxy.fields import MAX_HEAD
from flow_manager.proxy.forward import Forward
from flow_manager.proxy.headers import plain_address
from flow_manager.proxy.held_request import HELD_BODY
from flow_manager.proxy.holding import Holding
from flow_manager.proxy.last_head import LastRequest
from flow_manager.proxy.parser import MAX_REQUEST_LINE, Refused, RequestHead, too_large, too_long
from flow_manager.proxy.problems import Problem
from flow_manager.proxy.request_body import RequestBody
from flow_manager.proxy.tunnel import Tunnel
from flow_manager.proxy.watched import WatchedFlow
from flow_manager.proxy.wire import AHEAD, ANSWERING, BODY, FULL, GONE, HEAD, TUNNEL, ClientWire

# Seconds: for a head once it has begun; between requests; for the next bytes of a body that we are ready to read; for a
# client to read anything of what waits for it.
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
BODY_SECONDS = 120.0
STALLED_SECONDS = 300.0
# A client that ended its side of the connection may have left, or only have said all that it wants to say. It is given this
# long; after that only one that is being sent something, and takes it, is still there.
HALF_CLOSED_SECONDS = 1.0
# Bytes that may wait for a client that doesn't read; then the flow is read no more.
WRITE_HIGH = 128 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(ClientWire):
    __slots__ = ("_last", "_scanned", "asker", "body", "peer")

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge)
        self.peer = ""
        self.asker = Asker("", edge.trust)
        self.body = RequestBody()
        self._last = LastRequest()
        self._scanned = 0

    # --- asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = plain_address(str(name[0])) if isinstance(name, tuple) and name else "unknown"
        self.asker = Asker(self.peer, self.edge.trust)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.edge.add(self)
        self.deadline = self.edge.now + IDLE_SECONDS

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._state == BODY:
            exchange = self.exchange
            if exchange is not None and not exchange.ready_for_body:
                return self.edge.buffer[: max(1, min(READ_SIZE, HELD_BODY - self.body.size))]
        return self.edge.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.edge.buffer[:nbytes])
        state = self._state
        if state == HEAD:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_heads()
        elif state == BODY:
            self._buffer = data
            self.deadline = self.edge.now + BODY_SECONDS
            self._read_body()
        elif state == TUNNEL:
            cast(Tunnel, self.exchange).send_body(data, False)
            return
        elif state == ANSWERING:
            self._buffer += data
        else:
            return
        if len(self._buffer) >= READ_SIZE and self._state in (HEAD, ANSWERING):
            self._pause(AHEAD)

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self._state == TUNNEL and exchange is not None:
            return exchange.client_eof()
        if self._state != ANSWERING and not (self._state == HEAD and b"\r\n\r\n" in self._buffer):
            return False  # nothing asked, or only half a request: it has left
        self._half_closed = True
        self._doubt()
        return True

    def _doubt(self) -> None:
        self._written = False
        self.edge.loop.call_later(HALF_CLOSED_SECONDS, self._still_there, self.head)

    def _still_there(self, head: RequestHead | None) -> None:
        if self._state == ANSWERING and self.head is head and not self._written:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = GONE
        self.deadline = 0.0
        self._buffer = b""
        self.body.forget()
        self.edge.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self.paused = True
        if self._state in (BODY, ANSWERING, TUNNEL):
            self.deadline = self.edge.now + STALLED_SECONDS
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._state in (BODY, ANSWERING, TUNNEL):
            self.deadline = 0.0
        if self.exchange is not None:
            self.exchange.resume()
        elif self._state == HEAD:
            self._read_heads()

    # --- deadlines and the end ----------------------------------------------------------------------------------------

    def expire(self) -> None:
        self.deadline = 0.0
        if self._state == HEAD and not self._buffer and not self.paused:
            self._transport.close()
        elif self._state == HEAD and not self.paused:
            self.refuse(Refused(408, "too_slow", f"a request's head must come within {HEAD_SECONDS:g} s"))
        elif self._state == BODY and not self.paused:
            self._spoilt(Refused(408, "too_slow", f"nothing of the body came for {BODY_SECONDS:g} s"))
        else:
            self.abort()

    def shut(self) -> None:
        if self.exchange is not None:
            self.exchange.shut()
        else:
            self._transport.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_heads(self) -> None:
        while self._state == HEAD and self._buffer and not self.paused:
            buffer = self._buffer
            if buffer[0] in b"\r\n":
                # An empty line before a request is passed over (RFC 9112, section 2.2): old clients end bodies with one.
                if buffer.startswith(b"\r\n"):
                    self._buffer = buffer[2:]
                    continue
                if buffer != b"\r":
                    self.refuse(Refused(400, "bad_head", "a lone line end before the request"))
                break
            end = buffer.find(b"\r\n\r\n", self._scanned)
            if end < 0:
                self._wait_for_head()
                break
            self._scanned = 0
            end += 4
            self._buffer = buffer[end:] if end < len(buffer) else b""
            try:
                head = self._last.read(buffer if end == len(buffer) else buffer[:end])
                self._begin(head)
            except Refused as refused:
                self.refuse(refused)
        if self._half_closed and self._state == HEAD and not self.paused:
            self._transport.close()  # no request more, and none will come

    def _wait_for_head(self) -> None:
        self._unpause(AHEAD)
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
        if self._half_closed:
            self._doubt()
        self.deadline = 0.0
        self._state = ANSWERING
        if self.body.expect(head):
            self._state = BODY
            self._unpause(AHEAD)
        watcher = self.edge.routes.find(head.authority)
        if watcher is None:
            self.answer(Problem(404, "unknown_host", "no flow is served under that Host"))
            return
        if head.expects and self._state == BODY and not self._buffer:
            self.write(_CONTINUE)
        if watcher.ready_now() and not is_reserved_target(head.target):
            self._forward(watcher, head)
        else:
            self.hold(watcher)
        if self._state == BODY and self.exchange is not None:
            self.deadline = self.edge.now + BODY_SECONDS
            if self._buffer:
                self._read_body()
        if self._half_closed and self._state == BODY:
            self._transport.close()  # the rest won't come

    def _read_body(self) -> None:
        try:
            data, self._buffer, done = self.body.feed(self._buffer)
        except BadChunk as error:
            self._spoilt(Refused(400, "bad_body", str(error)))
            return
        if done:
            self._state = ANSWERING
            self.deadline = 0.0
        exchange = self.exchange
        if exchange is not None and exchange.ready_for_body:
            exchange.send_body(data, done)
        elif data:
            self.body.keep(data)
            if not done and self.body.size >= HELD_BODY:
                self._pause(FULL)

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

    # --- for the exchange ---------------------------------------------------------------------------------------------

    @property
    def request_complete(self) -> bool:
        return self._state != BODY

    def hold_back(self, full: bool) -> None:
        """The flow takes no more of the body for now, or again."""
        if not full:
            self._unpause(FULL)
            if self._state == BODY:
                self.deadline = self.edge.now + BODY_SECONDS
        elif self._state in (BODY, TUNNEL):
            self._pause(FULL)

    def take_pending(self) -> tuple[list[bytes], bool]:
        """The body as far as it is read, and whether that is all."""
        return self.body.take(), self._state == ANSWERING

    def finished(self, keep: bool) -> None:
        """The response is complete."""
        self.exchange = None
        ended = self._half_closed and not self._buffer
        if not keep or ended or self._state != ANSWERING or self.edge.closing:
            if self._state == BODY or self._buffer:
                self._linger()
            else:
                self._transport.close()
            return
        self.head = None
        self.body.forget()
        self._state = HEAD
        self.deadline = self.edge.now + IDLE_SECONDS
        if self._paused_reading:
            self._unpause(FULL if len(self._buffer) >= READ_SIZE else FULL | AHEAD)
        if self._buffer:
            # Not from here: a long row of pipelined requests that are answered at once would be as deep a stack.
            self.edge.loop.call_soon(self._read_heads)

    def tunnel(self, tunnel: Tunnel) -> None:
        self.exchange = tunnel
        self._state = TUNNEL
        self.deadline = 0.0
        self._unpause(FULL | AHEAD)
        buffer, self._buffer = self._buffer, b""
        if buffer:
            tunnel.send_body(buffer, False)

    def hold(self, watcher: WatchedFlow) -> None:
        holding = Holding(self, watcher)
        self.exchange = holding
        holding.start()

    def _forward(self, watcher: WatchedFlow, head: RequestHead) -> None:
        forward = Forward(self, watcher, lease=self.asker.lease(watcher, head))
        self.exchange = forward
        forward.start()
