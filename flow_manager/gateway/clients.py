"""The connected clients: who each is, and what it has under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flow_manager.contract.principal import Principal
from flow_manager.gateway.engine_socket import EngineSocket
from flow_manager.gateway.frames import Frame, event_frame
from flow_manager.gateway.lanes import Lane
from flow_manager.util import strict_json


@dataclass(eq=False, slots=True)
class Client:
    """One authenticated connection. `subscription` counts up with each subscribe: an older replay notices and ends."""

    sid: str
    principal: Principal
    socket: EngineSocket
    # What takes time and is under way, or waits for its turn, by the lane's name.
    lanes: dict[str, Lane[Any]] = field(default_factory=dict)
    subscription: int = 0
    greeted: bool = False

    @property
    def gone(self) -> bool:
        return self.socket.client is not self

    @property
    def pending_bytes(self) -> int:
        return int(self.socket.queue.pending_bytes)

    def send(self, frame: Frame) -> None:
        """Never blocks; a client that is gone gets nothing."""
        if self.socket.client is self:
            self.socket.queue.put_nowait(frame)

    async def turn(self, size: int) -> None:
        """Before a reply that may be large; at once for one that isn't, and for a client that is gone."""
        if self.socket.client is self:
            await self.socket.queue.turn(size)

    def emit(self, event: str, data: Any) -> None:
        self.send(event_frame(event, strict_json.dumps_bytes(data)))


class Clients:
    """All of them, by Socket.IO's session id."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def __getitem__(self, sid: str) -> Client:
        return self._by_sid[sid]

    def add(self, client: Client) -> None:
        self._by_sid[client.sid] = client

    def remove(self, sid: str) -> Client | None:
        return self._by_sid.pop(sid, None)

    def all(self) -> list[Client]:
        return list(self._by_sid.values())
