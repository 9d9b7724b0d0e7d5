"""One end of a TCP connection that is joined to another: bytes go across at the speed of the slower one, half-closes too.

Until it is joined, an end keeps what comes first, up to a bound, and then leaves the rest in the peer's socket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Protocol

# First bytes of a connection that are kept while its flow wakes.
HELD_BYTES = 65536
# One read moves at most this much; asyncio's own reads of 256 KiB would break the bound above.
_READ_BYTES = 65536
# A peer that vanished without a word (a machine that lost power, a network that was torn down) is noticed in two minutes.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))


class Owner(Protocol):
    """Told synchronously, in the loop."""

    def end_made(self, end: End) -> None: ...
    def end_saw(self, end: End) -> None:
        """Bytes came from it."""
        ...

    def end_finished(self, end: End) -> None:
        """It will send no more; it may still read."""
        ...

    def end_lost(self, end: End, error: Exception | None) -> None: ...


class Scratch:
    """The buffer that all ends read into: an event loop fills and hands on one at a time."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_BYTES))


class End(asyncio.BufferedProtocol):
    """`other` is set by `join`."""

    def __init__(self, owner: Owner, scratch: Scratch) -> None:
        self.transport: Any = None
        self.other: End | None = None
        self.finished = False
        self.lost = False
        self.received = 0
        self._owner = owner
        self._scratch = scratch
        self._held = bytearray()

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        _keep_alive(transport.get_extra_info("socket"))
        self._owner.end_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.other is not None:
            return self._scratch.view
        return self._scratch.view[: max(1, HELD_BYTES - len(self._held))]

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: the transport may keep what it is given, and the next read overwrites the buffer.
        data = bytes(self._scratch.view[:nbytes])
        self.received += nbytes
        if self.other is not None:
            self.other.send(data)
        else:
            self._held += data
            if len(self._held) >= HELD_BYTES:
                self.pause_reading()
        self._owner.end_saw(self)

    def eof_received(self) -> bool:
        self.finished = True
        if self.other is not None:
            self.other.send_end()
        self._owner.end_finished(self)
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._held.clear()
        other, self.other = self.other, None
        if other is not None:
            other.other = None
        self._owner.end_lost(self, exc)

    # --- what its owner does ------------------------------------------------------------------------------------------

    def join(self, other: End, early: bytes) -> None:
        """Hand on what was held, then everything. `early` came from the other end before it was one."""
        self.other, other.other = other, self
        if early:
            self.send(early)
        if self._held:
            other.send(bytes(self._held))
            self._held = bytearray()
        if self.finished:
            other.send_end()
        elif other.unsent <= HELD_BYTES:  # else `resume_writing` will
            self.resume_reading()

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.lost and not self.transport.is_closing()

    @property
    def unsent(self) -> int:
        size: int = self.transport.get_write_buffer_size() if self.open else 0
        return size

    def send(self, data: bytes) -> None:
        if self.open:
            self.transport.write(data)

    def send_end(self) -> None:
        if self.open and self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:
                pass  # it is gone: `connection_lost` follows

    def pause_reading(self) -> None:
        if self.open and not self.finished:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.open and not self.finished:
            self.transport.resume_reading()

    def close(self) -> None:
        """Once what it was sent is out."""
        if self.open:
            self.transport.close()

    def reset(self) -> None:
        """Now, and so that the peer can't take it for an ordinary end."""
        if self.transport is None or self.lost:
            return
        sock = self.transport.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, AttributeError):
            pass
        self.transport.abort()


def _keep_alive(sock: Any) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except (OSError, AttributeError):
        pass  # gone already, or no such option here: the connection works without
