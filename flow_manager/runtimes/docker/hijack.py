"""A connection that the engine has made ours: after `101 UPGRADED` it is bytes both ways (Engine API, "Stream format").

aiodocker's own stream has no cap, leaves its connection open when its reader is cancelled, and raises its libraries' errors
in mid-stream. This one sits on the same hook of aiohttp that WebSockets use, so that it works over TLS as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp
from aiodocker.exceptions import DockerError

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
SWITCHED = 101
# Bytes that were received and not read yet, from which on the engine is held up: the program with it.
HIGH_WATER = 256 * 1024


class Hijacked:
    """`read` and `write` until `close`, which must be called. One reader, one writer. Raises no error of the libraries."""

    def __init__(self, response: aiohttp.ClientResponse, closed: Callable[[], None]) -> None:
        """:raises DockerError: the engine did not switch; the response is closed then."""
        connection = response.connection
        if response.status != SWITCHED or connection is None or connection.protocol is None:
            response.close()
            raise DockerError(response.status, "the engine did not hand its connection over")
        self._response = response
        self._closed: Callable[[], None] | None = closed
        self._protocol: Any = connection.protocol
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._over = False
        self._changed = asyncio.Event()
        self._protocol.force_close()  # never back into the pool
        self._protocol.set_parser(self, self)

    # What aiohttp calls.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if data:
            self._waiting.append(bytes(data))
            self._bytes += len(data)
            if self._bytes >= HIGH_WATER:
                self._protocol.pause_reading()
            self._changed.set()
        return False, b""

    def feed_eof(self) -> None:
        self._over = True
        self._changed.set()

    def set_exception(self, *_: Any) -> None:
        self.feed_eof()

    def is_eof(self) -> bool:
        return self._over

    # What we call.

    async def read(self) -> bytes:
        """What has come; empty at the end, also where the connection broke."""
        while not self._waiting:
            if self._over or self._closed is None or self._protocol.transport is None:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._waiting)
        self._waiting.clear()
        paused, self._bytes = self._bytes >= HIGH_WATER, 0
        if paused:
            self._protocol.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Waits while the engine does not read; dropped where the connection is gone."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return
        try:
            transport.write(data)
            await self._protocol._drain_helper()
        except (ConnectionError, aiohttp.ClientError):
            pass

    def close(self) -> None:
        """Give the connection back, whatever was not read; who reads gets the end. May be called again."""
        closed, self._closed = self._closed, None
        if closed is None:
            return
        self._waiting.clear()
        # Not `response.close()` alone: what could not be written yet would keep the socket open.
        if (transport := self._protocol.transport) is not None:
            transport.abort()
        self._response.close()
        self.feed_eof()
        closed()
