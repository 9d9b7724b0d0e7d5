"""Both neighbours of a connection: who is at its far end, and whose it is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flow_manager.channel.frames import Frame

if TYPE_CHECKING:
    from flow_manager.channel.connection import Connection


class LocalPeer(NamedTuple):
    """Who connected, as the kernel says (SO_PEERCRED, unix(7)): ids of the host, also for a process in a container."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"pid {self.pid}, uid {self.uid}"


class RemotePeer(NamedTuple):
    """Who connected from another machine, and has shown the flow's token."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


Peer = LocalPeer | RemotePeer


class ConnectionOwner(Protocol):
    """The flow that a connection belongs to. Everything is called in the loop and must not raise."""

    def connected(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def said(self, body: Any) -> None:
        """The body of a message that the flow sent on its own."""
        ...

    def heard(self, frame: Frame) -> None:
        """A frame that is not the connection's own business: an event, a state, a refusal."""
        ...

    def issued(self, message_id: str) -> bool:
        """Whether this is the id of a message of ours, now or before."""
        ...
