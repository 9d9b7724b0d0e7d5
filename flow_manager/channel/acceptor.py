"""Taking connections from a listening socket, no faster than is good for everybody else.

By itself rather than through asyncio's servers: those accept as fast as a peer can connect (1,000 connections cost every
other flow its time) and, out of descriptors, log thousands of tracebacks a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from flow_manager.channel.throttle import TokenBucket

_log = logging.getLogger(__name__)

# Out of descriptors or memory: nothing gets better by trying again at once.
ACCEPT_PAUSE = 1.0


class Acceptor:
    """Gives each connection of `listening`, which is its own from now on, to `on_accepted`, with the peer's address."""

    __slots__ = ("_bucket", "_loop", "_name", "_on_accepted", "_pause", "_socket")

    def __init__(
        self,
        listening: socket.socket,
        name: str,
        on_accepted: Callable[[socket.socket, Any], None],
        bucket: TokenBucket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`name`: what logs call it. `bucket`: connections that may come; the rest waits in the kernel's backlog."""
        self._socket: socket.socket | None = listening
        self._name = name
        self._on_accepted = on_accepted
        self._bucket = bucket
        self._loop = loop
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._go_on()

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        # One a wake: others in the loop get their turn between two connections.
        if self._socket is None:
            return
        if not self._bucket.take():
            self._rest(self._bucket.seconds_until(0))
            return
        try:
            accepted, address = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            _log.warning("a connection on %s could not be accepted: %s", self._name, exc.strerror)
            if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._rest(ACCEPT_PAUSE)
            return
        accepted.setblocking(False)
        self._on_accepted(accepted, address)

    def _rest(self, seconds: float) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)
