"""The listening end of one flow's channel.

Accepts by itself rather than through `create_unix_server`: that one accepts as fast as a flow can connect (1,000 connections
cost every other flow its time) and, out of descriptors, logs thousands of tracebacks a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from flow_manager.channel import folders
from flow_manager.channel.peer import LocalPeer
from flow_manager.channel.throttle import TokenBucket

_log = logging.getLogger(__name__)

# Connections waiting in the kernel. A flow needs one; the rest is for its restarts.
BACKLOG = 16
# A flow connects once, and again when it or the manager restarts. More than this is a fault or an attack: the rest waits in
# the kernel's backlog.
CONNECTS_A_SECOND = 5.0
CONNECTS_AT_ONCE = 20.0
# Out of descriptors or memory: nothing gets better by trying again at once.
ACCEPT_PAUSE = 1.0
_UCRED = struct.Struct("3i")


class FlowListener:
    """Listens on `<sockets_dir>/<id>/<id>.sock` and hands over what connects, with its peer's credentials."""

    __slots__ = ("_bucket", "_folder", "_identity", "_loop", "_name", "_on_connection", "_path", "_pause", "_socket")

    def __init__(
        self,
        path: Path,
        on_connection: Callable[[socket.socket, LocalPeer], None],
        monotonic: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._path = path
        self._name = path.name
        self._on_connection = on_connection
        self._loop = loop
        self._bucket = TokenBucket(CONNECTS_A_SECOND, monotonic, burst=CONNECTS_AT_ONCE)
        self._socket: socket.socket | None = None
        self._identity = (0, 0)
        self._pause: asyncio.TimerHandle | None = None

    def open(self, folder: int) -> None:
        """Listen where the place is clear, and open the socket to all users. `folder`: a descriptor of the flow's folder.

        :raises SystemFailure: it can't listen there. DiskFull where that is why.
        """
        with folders.os_errors_as_ours("the flow's socket can't be made"):
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                listening.bind(os.fspath(self._path))
                self._identity = folders.open_to_all(self._name, folder)
                listening.listen(BACKLOG)
            except BaseException:
                listening.close()
                raise
        self._socket = listening
        self._loop.add_reader(listening.fileno(), self._accept)

    def is_open(self, folder: int) -> bool:
        """Whether it listens, and the socket in the folder is still its own: a flow that is root may have removed it."""
        return self._socket is not None and folders.still_there(self._name, folder, self._identity)

    def close(self) -> None:
        """Stop listening. The file stays: `folders.clear` removes it."""
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
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            _log.warning("a connection on %s could not be accepted: %s", self._path, exc.strerror)
            if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._rest(ACCEPT_PAUSE)
            return
        try:
            accepted.setblocking(False)
            peer = LocalPeer(*_UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
        except OSError as exc:
            _log.warning("a connection on %s was refused, its peer is not known: %s", self._path, exc.strerror)
            accepted.close()
            return
        self._on_connection(accepted, peer)

    def _rest(self, seconds: float) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)
