"""The listening end of one flow's channel on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from flow_manager.channel import folders
from flow_manager.channel.acceptor import Acceptor
from flow_manager.channel.peer import LocalPeer
from flow_manager.channel.throttle import TokenBucket

_log = logging.getLogger(__name__)

# Connections waiting in the kernel. A flow needs one; the rest is for its restarts.
BACKLOG = 16
# A flow connects once, and again when it or the manager restarts. More than this is a fault or an attack: the rest waits in
# the kernel's backlog.
CONNECTS_A_SECOND = 5.0
CONNECTS_AT_ONCE = 20.0
_UCRED = struct.Struct("3i")


class FlowListener:
    """Listens on `<sockets_dir>/<id>/<id>.sock` and hands over what connects, with its peer's credentials."""

    __slots__ = ("_acceptor", "_bucket", "_identity", "_loop", "_name", "_on_connection", "_path", "own_user_only")

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
        # The flow runs as this user and nobody else can be it. In a container it may be any.
        self.own_user_only = False
        # Kept for the flow, not for the socket: one that removes its socket would get a new allowance each time.
        self._bucket = TokenBucket(CONNECTS_A_SECOND, monotonic, burst=CONNECTS_AT_ONCE)
        self._acceptor: Acceptor | None = None
        self._identity = (0, 0)

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
        self._acceptor = Acceptor(listening, str(self._path), self._accepted, self._bucket, self._loop)
        self._acceptor.start()

    def is_open(self, folder: int) -> bool:
        """Whether it listens, and the socket in the folder is still its own: a flow that is root may have removed it."""
        return self._acceptor is not None and folders.still_there(self._name, folder, self._identity)

    def close(self) -> None:
        """Stop listening. The file stays: `folders.clear` removes it."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    def _accepted(self, accepted: socket.socket, _address: str) -> None:
        try:
            peer = LocalPeer(*_UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
        except OSError as exc:
            _log.warning("a connection on %s was refused, its peer is not known: %s", self._path, exc.strerror)
            accepted.close()
            return
        if self.own_user_only and peer.uid not in (0, os.geteuid()):
            _log.warning("a connection on %s of %s was refused: that is another user than the flow's", self._path, peer)
            accepted.close()
            return
        self._on_connection(accepted, peer)
