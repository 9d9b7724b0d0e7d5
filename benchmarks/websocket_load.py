"""Many bare WebSocket clients in one process, cheap enough not to be what is measured: no library, no JSON, no parsing.

They are only as careful as a load needs to be: frames are counted and timed by what they contain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

HANDSHAKE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def masked(text: bytes) -> bytes:
    """A client's text frame with a mask of zeros, which leaves the payload as it is."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + bytes(4) + text


PING = b"\x81\x012"
PONG = masked(b"3")


class Caller(asyncio.Protocol):
    """Sends an event, waits for its acknowledgement, sends the next."""

    def __init__(self, request: bytes, latencies: list[float], going: Callable[[], bool]) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.idle = asyncio.Event()
        self.done = 0
        self._frame = masked(b'427["get_status",' + request + b"]")
        self._latencies = latencies
        self._going = going
        self._sent = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(HANDSHAKE + masked(b"40"))

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self._buffer += data
            if b"40{" in self._buffer:
                self.ready.set_result(None)
            return
        if PING in data:
            self.transport.write(PONG)
        if b"437[" not in data:
            return
        if b'"error":false' not in data and b'"error": false' not in data:
            raise RuntimeError(f"the event failed: {data[:200]!r}")
        self._latencies.append(time.perf_counter() - self._sent)
        self.done += 1
        if self._going():
            self.call()
        else:
            self.idle.set()

    def call(self) -> None:
        self.idle.clear()
        self._sent = time.perf_counter()
        self.transport.write(self._frame)


class Listener(asyncio.Protocol):
    """Subscribes, and counts the entries that come."""

    def __init__(self, subscribe: bytes | None) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.received = 0
        self._subscribe = subscribe
        self._buffer = b""
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        frames = masked(b"40") + (masked(self._subscribe) if self._subscribe is not None else b"")
        self.transport.write(HANDSHAKE + frames)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self._buffer += data
            if (b"431[" if self._subscribe is not None else b"40{") in self._buffer:
                self.ready.set_result(None)
            return
        if PING in data:
            self.transport.write(PONG)
        text = self._tail + data
        self.received += text.count(b'["activity"')
        self._tail = text[-10:]


async def open_all(url: str, count: int, make: Callable[[], asyncio.Protocol]) -> list:
    """`count` connections, each once it is ready; a few at a time, because a server's backlog is finite."""
    where = urlsplit(url)
    loop = asyncio.get_running_loop()
    opened: list = []
    while len(opened) < count:
        batch = [
            (await loop.create_connection(make, where.hostname, where.port))[1]
            for _ in range(min(50, count - len(opened)))
        ]
        await asyncio.wait_for(asyncio.gather(*(client.ready for client in batch)), 30)
        opened += batch
    return opened
