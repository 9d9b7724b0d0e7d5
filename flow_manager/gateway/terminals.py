"""Terminals, as each connection sees them: what goes out as binary frames, and when a slow client has room for more."""

from __future__ import annotations

from typing import Protocol

from flow_manager.contract import inside
from flow_manager.contract.principal import Principal
from flow_manager.errors import UnknownEvent
from flow_manager.gateway.clients import Client
from flow_manager.gateway.frames import binary_event_frame, event_frame
from flow_manager.util import strict_json

# Bytes on their way to one client, from which on its terminals wait: two frames of theirs, and two more in its transport. Far
# below the bound at which a client is cut off, so that a terminal never is the reason for that.
ROOM = 256 * 1024


class ClientViewer:
    """One connection, to all terminals that it looks at (`containers.terminal.Viewer`)."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._bound = min(ROOM, client.socket.queue.limit // 4)

    def output(self, terminal_id: str, offset: int, data: bytes) -> None:
        fields = b'"terminal_id":%s,"offset":%d' % (strict_json.dumps_bytes(terminal_id), offset)
        self._client.send(binary_event_frame("terminal_output", fields, "data", data))

    def closed(self, terminal_id: str, exit_code: int | None) -> None:
        told = inside.TerminalClosed(terminal_id=terminal_id, exit_code=exit_code)
        self._client.send(event_frame("terminal_closed", told.model_dump_json().encode()))

    async def room(self) -> None:
        await self._client.socket.queue.room(self._bound)


class TerminalDesk(Protocol):
    """What the gateway needs of those who keep the terminals (`containers.terminals.Terminals`)."""

    async def attach(
        self, principal: Principal, request: inside.AttachContainer, viewer: ClientViewer
    ) -> inside.Attached: ...
    async def write(
        self, principal: Principal, terminal_id: str, data: bytes, request_id: str | None = None
    ) -> None: ...
    async def resize(self, principal: Principal, terminal_id: str, cols: int, rows: int) -> None: ...
    def detach(self, principal: Principal, terminal_id: str, viewer: ClientViewer) -> None: ...
    def leave(self, viewer: ClientViewer) -> None: ...


class TerminalViews:
    """The terminal events, for each connection; `desk` None: a service without terminals."""

    def __init__(self, desk: TerminalDesk | None) -> None:
        self._desk = desk
        self._viewers: dict[Client, ClientViewer] = {}

    async def attach(self, client: Client, request: inside.AttachContainer) -> inside.Attached:
        """See `Terminals.attach`; the output follows the reply."""
        viewer = self._viewers.setdefault(client, ClientViewer(client))
        desk = self._kept("attach_container")
        attached = await desk.attach(client.principal, request, viewer)
        if client.gone:  # it went while the terminal was being opened, and was dropped before it looked
            desk.leave(viewer)
        return attached

    async def write(self, client: Client, request: inside.TerminalInput) -> None:
        data = request.data if isinstance(request.data, bytes) else request.data.encode()
        await self._kept("terminal_input").write(client.principal, request.terminal_id, data, request.request_id)

    async def resize(self, client: Client, request: inside.TerminalResize) -> None:
        await self._kept("terminal_resize").resize(client.principal, request.terminal_id, request.cols, request.rows)

    def detach(self, client: Client, request: inside.OneTerminal) -> None:
        viewer = self._viewers.get(client) or ClientViewer(client)
        self._kept("detach_container").detach(client.principal, request.terminal_id, viewer)

    def drop(self, client: Client) -> None:
        """The connection is gone; its terminals go on for a while."""
        viewer = self._viewers.pop(client, None)
        if viewer is not None and self._desk is not None:
            self._desk.leave(viewer)

    def _kept(self, event: str) -> TerminalDesk:
        if self._desk is None:
            raise UnknownEvent(f"this service opens no terminals: there is no event '{event}'", event=event)
        return self._desk
