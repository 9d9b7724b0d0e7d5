"""One connection to a flow: reads responses strictly and tells the exchange that it serves."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import Protocol, cast

from flow_manager.proxy.chunked import BadChunk, ChunkedDecoder
from flow_manager.proxy.fields import MAX_HEAD
from flow_manager.proxy.last_head import LastResponse
from flow_manager.proxy.response_parser import BODILESS, BadResponse, ResponseHead
from flow_manager.proxy.watched import WatchedFlow

# Bytes that may wait for a flow that doesn't read; then the client is read no more.
WRITE_HIGH = 64 * 1024
# Interim responses before the real one: a flow that sends them for ever would feed a client nothing for ever.
MAX_INTERIM = 64
_HEAD, _NOTHING, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _TUNNEL = range(6)


class Receiver(Protocol):
    """The exchange (or tunnel) that a connection serves. `wants_no_body`: the response to HEAD has none."""

    wants_no_body: bool

    def on_interim(self, head: ResponseHead) -> None: ...
    def on_response(self, head: ResponseHead, data: bytes, done: bool) -> None: ...
    def on_data(self, data: bytes, done: bool) -> None: ...
    def on_switched(self, head: ResponseHead, data: bytes) -> None: ...
    def on_bad_response(self, reason: str) -> None: ...
    def on_upstream_eof(self) -> None: ...
    def on_upstream_lost(self) -> None: ...
    def on_upstream_full(self, full: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Belongs to one start of one flow: `address` and `epoch` (when it became ready) tell whether it still is the same."""

    __slots__ = (
        "_buffer",
        "_decoder",
        "_interim",
        "_last",
        "_left",
        "_mode",
        "address",
        "epoch",
        "idle_since",
        "receiver",
        "reusable",
        "touched",
        "transport",
        "used",
        "watcher",
    )

    def __init__(self, watcher: WatchedFlow, address: tuple[str, int]) -> None:
        self.watcher = watcher
        self.address = address
        self.epoch: datetime | None = watcher.last_ready
        self.idle_since = 0.0
        # How often it was used before; whether a byte of the response under way has come; whether it may serve another.
        self.used = 0
        self.touched = False
        self.reusable = True
        self.receiver: Receiver | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._buffer = b""
        self._last = LastResponse()
        self._mode = _HEAD
        self._left = 0
        self._interim = 0
        self._decoder: ChunkedDecoder | None = None

    # --- for the exchange ---------------------------------------------------------------------------------------------

    def serve(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.touched = False
        self._mode = _HEAD
        self._interim = 0

    def abort(self) -> None:
        self.receiver = None
        self.reusable = False
        self.transport.abort()

    def close(self) -> None:
        self.receiver = None
        self.reusable = False
        self.transport.close()

    @property
    def alive(self) -> bool:
        return self.reusable and not self.transport.is_closing()

    # --- asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        receiver = self.receiver
        if receiver is None:
            # Nobody asked: it would be taken for the answer to the next request.
            self.abort()
            return
        self.touched = True
        if self._mode == _HEAD:
            self._read_head(receiver, data)
        elif self._mode == _TUNNEL:
            receiver.on_data(data, False)
        else:
            try:
                payload, done = self._decode(data)
            except BadChunk as error:
                receiver.on_bad_response(str(error))
            else:
                if payload or done:
                    receiver.on_data(payload, done)

    def eof_received(self) -> bool:
        receiver = self.receiver
        self.reusable = False
        if receiver is not None:
            if self._mode == _TUNNEL:
                receiver.on_upstream_eof()
                return True
            if self._mode == _UNTIL_CLOSE:
                receiver.on_data(b"", True)
            else:
                receiver.on_upstream_lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self.receiver is not None and exc is not None and self._mode != _TUNNEL:
            self._read_last_words()
        if self.receiver is not None:
            self.receiver.on_upstream_lost()

    def _read_last_words(self) -> None:
        """A server that refuses a large body answers and closes, and the next write fails; asyncio then gives up the connection
        with the answer unread (uvloop reads it). The descriptor is still open here."""
        handle = self.transport.get_extra_info("socket")
        try:
            data = os.read(handle.fileno(), MAX_HEAD) if handle is not None and handle.fileno() >= 0 else b""
        except OSError:
            return
        if data:
            self.data_received(data)

    def pause_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.on_upstream_full(True)

    def resume_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.on_upstream_full(False)

    # --- framing ------------------------------------------------------------------------------------------------------

    def _read_head(self, receiver: Receiver, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                if len(data) > MAX_HEAD:
                    receiver.on_bad_response("its head is too large")
                else:
                    self._buffer = data
                return
            try:
                head = self._last.read(data[: end + 4])
            except BadResponse as error:
                receiver.on_bad_response(str(error))
                return
            data = data[end + 4 :]
            if head.status >= 200 or head.status == 101:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM:
                receiver.on_bad_response("it sends interim responses without end")
                return
            receiver.on_interim(head)
            if self.receiver is not receiver:
                return
        if head.status == 101:
            self.reusable = False
            self._mode = _TUNNEL
            receiver.on_switched(head, data)
            return
        if not head.keep_alive:
            self.reusable = False
        if head.length == len(data) and not receiver.wants_no_body and head.status not in BODILESS:
            # The whole body came with the head: most answers of an API.
            self._mode = _NOTHING
            receiver.on_response(head, data, True)
            return
        self._expect(head, receiver.wants_no_body)
        try:
            payload, done = self._decode(data)
        except BadChunk as error:
            receiver.on_bad_response(str(error))
        else:
            receiver.on_response(head, payload, done)

    def _expect(self, head: ResponseHead, no_body: bool) -> None:
        if no_body or head.status in BODILESS:
            self._mode = _NOTHING
        elif head.chunked:
            self._mode = _CHUNKED
            self._decoder = ChunkedDecoder()
        elif head.length is not None:
            self._mode = _LENGTH
            self._left = head.length
        else:
            self._mode = _UNTIL_CLOSE
            self.reusable = False

    def _decode(self, data: bytes) -> tuple[bytes, bool]:
        """The payload in `data`, and whether the body has ended. What comes after the end makes the connection unusable."""
        if self._mode == _LENGTH:
            self._left -= len(data)
            if self._left > 0:
                return data, False
            if self._left < 0:
                self.reusable = False
                data = data[: self._left]
            return data, True
        if self._mode == _CHUNKED:
            assert self._decoder is not None
            payload = self._decoder.feed(data)
            if self._decoder.rest:
                self.reusable = False
            return payload, self._decoder.done
        if self._mode == _NOTHING:
            if data:
                self.reusable = False
            return b"", True
        return data, False
