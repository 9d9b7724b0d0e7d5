"""TLS between a socket's transport and a protocol of ours, which sees it as its transport.

Not asyncio's own: that one keeps 256 KiB a connection ready for reading, tells a protocol with a high-water mark of 0 that it
is blocked when it isn't, and lets what is still with us count as written. Here, as on a Unix socket, `pause_writing` means
that bytes are still with us, and its absence that all are in the kernel.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol, cast

# What one TLS record may hold (RFC 8446, section 5.1).
RECORD = 16 * 1024
# The first byte of a client's first record (RFC 8446, section 5.1: handshake). Anything else is no TLS.
HANDSHAKE = 0x16
# A peer that is told goodbye may still be sending. Closing at once would answer it with a reset, and that would cost it
# what we said last. So long is waited for its own end, in seconds.
LINGER = 1.0


class PipeUser(Protocol):
    """What the pipe wants of the protocol behind it: asyncio.Protocol's calls."""

    def connection_made(self, transport: asyncio.BaseTransport, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...


class Newcomer(PipeUser, Protocol):
    """The first protocol behind the pipe."""

    def no_tls(self, reason: str) -> None:
        """The handshake failed: the connection is about to end."""
        ...


class TlsPipe(asyncio.Transport, asyncio.Protocol):
    """The server's end. `connection_made` of the newcomer comes after the handshake, `connection_lost` always."""

    def __init__(
        self, context: ssl.SSLContext, newcomer: Newcomer, plain_answer: bytes, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`plain_answer` is for a client that speaks no TLS: it would understand no alert."""
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._newcomer = newcomer
        self._protocol: PipeUser = newcomer
        self._plain_answer = plain_answer
        self._loop = loop
        self._raw: asyncio.Transport | None = None
        self._began = False
        self._shaken = False
        self._blocked = False
        self._reading = True
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None

    # --- towards the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._raw.set_write_buffer_limits(high=0)
        if self._closing:
            self._raw.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._began:
            self._began = True
            if data[0] != HANDSHAKE:
                self._newcomer.no_tls("it speaks no TLS")
                self._closing = True
                if self._raw is not None:
                    self._raw.write(self._plain_answer)
                self._say_no_more()
                return
        self._incoming.write(data)
        self._advance()

    def pause_writing(self) -> None:
        self._blocked = True
        if self._shaken:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._shaken:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._linger is not None:
            self._linger.cancel()
        self._protocol.connection_lost(exc)

    # --- towards the protocol: asyncio.Transport ----------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            # A connection whose TLS is broken says no more; `is_closing` tells the writer.
            self.abort()
            return
        self._flush()

    def is_closing(self) -> bool:
        return self._closing or self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._reading = False
        if self._raw is not None and not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._reading = True
        if self._raw is not None and not self._raw.is_closing():
            self._raw.resume_reading()
        # What had come before the pause is with us, and no event will tell of it.
        self._loop.call_soon(self._advance)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It is 0 in any case: see above."""

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def hand_over(self, protocol: PipeUser, received: bytes) -> None:
        """From now on `protocol` is behind the pipe; `received` is what the newcomer was given already."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._blocked:
            protocol.pause_writing()
        protocol.data_received(received)

    def close(self) -> None:
        """Send what was written, say goodbye, and end when the peer does, or soon after."""
        if self._closing:
            return
        self._closing = True
        if self._shaken:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's own goodbye isn't there yet: it is waited for on the socket
            self._flush()
        self._say_no_more()

    def abort(self) -> None:
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    # --- TLS ----------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if not self._shaken and not self._closing:
            self._shake_hands()
        while self._shaken and self._reading and not self._closing:
            data = self._read()
            if not data:
                break
            self._protocol.data_received(data)
            if not self._incoming.pending and not self._tls.pending():
                # Nothing more can be read: to be told so by an exception would cost each message as much as reading it.
                self._flush()
                break

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._broken(error)
            return
        self._shaken = True
        self._flush()
        self._protocol.connection_made(self)

    def _read(self) -> bytes:
        """Empty: there is no more for now, or for ever."""
        try:
            data = self._tls.read(RECORD)
        except ssl.SSLWantReadError:
            # TLS may have to answer by itself (a key update).
            self._flush()
            return b""
        except ssl.SSLError as error:
            self._broken(error)
            return b""
        if not data:
            self.close()
        return data

    def _broken(self, error: ssl.SSLError) -> None:
        if not self._shaken:
            self._newcomer.no_tls(f"the TLS handshake failed: {error.reason or 'unreadable'}")
        self._closing = True
        # The alert that says why.
        self._flush()
        self._say_no_more()

    def _flush(self) -> None:
        if self._outgoing.pending and self._raw is not None:
            self._raw.write(self._outgoing.read())

    def _say_no_more(self) -> None:
        if self._raw is None or self._raw.is_closing():
            return
        try:
            self._raw.write_eof()
        except OSError:
            self._raw.abort()  # the peer is gone
            return
        # Its end can only be seen by reading; what else comes is dropped.
        self._raw.resume_reading()
        self._linger = self._loop.call_later(LINGER, self._raw.abort)
