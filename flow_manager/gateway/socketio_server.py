"""python-socketio's server with its event dispatch taken out.

Its own dispatch runs the handler that an event's name says, `connect` among them: a client's ordinary event named `connect`
ran our connect handler with an environ and an auth that the client made up. Here an event goes to `Hooks.event` and nowhere
else; the connect and disconnect hooks are reached from real CONNECT and DISCONNECT packets alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import socketio
from engineio import packet as engine
from socketio import packet
from socketio.exceptions import ConnectionRefusedError as Refused

from flow_manager.errors import FlowManagerError, InvalidRequest, Unauthorized, ValidationFailure
from flow_manager.gateway.engine import MAX_MESSAGE, PING_INTERVAL, PING_TIMEOUT, EngineServer
from flow_manager.gateway.engine_socket import EngineSocket
from flow_manager.gateway.packets import Event, Header, StrictPacket, judge_event, read_event, read_header

NAMESPACE = "/"


class Hooks(Protocol):
    """What the gateway does at each point. None of these may raise, except `connect` its refusal."""

    async def connect(self, sid: str, socket: EngineSocket, auth: Any) -> None:
        """:raises FlowManagerError: refuses the connection; anything else refuses it too, and is logged."""
        ...

    def connected(self, sid: str, socket: EngineSocket) -> None:
        """CONNECT was answered: the client can be told things now."""
        ...

    def disconnected(self, sid: str, socket: EngineSocket | None, reason: str) -> None: ...

    def event(self, socket: EngineSocket, event: Event, namespace: str) -> None: ...

    def refused(self, socket: EngineSocket, refusal: ValidationFailure) -> None: ...

    def cut(self, socket: EngineSocket) -> None: ...

    def fault(self, where: str, exc: BaseException) -> FlowManagerError: ...


class SocketServer(socketio.AsyncServer):  # type: ignore[misc]
    """Strict, without user handlers. `max_payload` in bytes; `origin_allowed(origin, environ)` decides about pages."""

    def __init__(
        self, hooks: Hooks, *, max_payload: int, origin_allowed: Callable[[str | None, dict[str, Any]], bool]
    ) -> None:
        super().__init__(
            serializer=StrictPacket,
            async_mode="aiohttp",
            logger=logging.getLogger("flow_manager.socketio"),
            engineio_logger=logging.getLogger("flow_manager.engineio"),
            cors_allowed_origins=origin_allowed,
            cors_credentials=False,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            max_http_buffer_size=MAX_MESSAGE,
            http_compression=False,
            monitor_clients=False,  # each session has its own timer
        )
        self.hooks = hooks
        self.max_payload = max_payload

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    # --- from the engine -------------------------------------------------------------------------------------------

    def on_event(self, socket: EngineSocket, raw: bytes) -> None:
        try:
            self._event(socket, read_header(raw))
        except InvalidRequest as refusal:
            self.hooks.refused(socket, refusal)
        except Exception as exc:
            self.hooks.fault("event", exc)

    def on_attachment(self, socket: EngineSocket, data: bytes) -> None:
        try:
            event = socket.attachments.attachment(data, self.max_payload)
            socket.watch_attachment()
            if event is not None:
                self.hooks.event(socket, event, NAMESPACE)
        except Exception as exc:
            self.hooks.fault("attachment", exc)

    def on_attachment_overdue(self, socket: EngineSocket) -> None:
        try:
            event = socket.attachments.overdue()
            if event is not None:
                self.hooks.event(socket, event, NAMESPACE)
        except Exception as exc:
            self.hooks.fault("attachment", exc)

    async def on_packet(self, socket: EngineSocket, raw: bytes) -> None:
        try:
            await self._packet(socket, raw)
        except InvalidRequest as refusal:
            self.hooks.refused(socket, refusal)
        except Exception as exc:
            self.hooks.fault("packet", exc)

    def on_malformed(self, socket: EngineSocket, reason: str) -> None:
        self.hooks.refused(socket, InvalidRequest(reason))

    def on_cut(self, socket: EngineSocket) -> None:
        self.hooks.cut(socket)

    async def _packet(self, socket: EngineSocket, raw: bytes) -> None:
        pkt = StrictPacket(encoded_packet=raw)
        if pkt.packet_type == packet.BINARY_EVENT:
            self._event(socket, read_header(raw))
            return
        self._interrupted(socket)
        if pkt.refusal is not None and pkt.packet_type != packet.CONNECT:
            raise pkt.refusal
        if pkt.packet_type == packet.CONNECT:
            await self._connect(socket, pkt)
        elif pkt.packet_type == packet.DISCONNECT:
            await self._handle_disconnect(socket.sid, pkt.namespace, self.reason.CLIENT_DISCONNECT)
            if socket.client is None:
                socket.expect_connect(self.eio.connect_deadline)
        elif pkt.packet_type != packet.ACK:  # nothing we send asks for one
            raise InvalidRequest("no packet that a client sends")

    def _event(self, socket: EngineSocket, header: Header) -> None:
        event = read_event(header, self.max_payload)
        if header.type == packet.EVENT and not header.attachments and not socket.attachments.expected:
            self.hooks.event(socket, event, header.namespace)  # nearly all of them
            return
        if event.awaits is not None and header.namespace != NAMESPACE:
            event = event._replace(awaits=None)  # to be refused for its namespace
        ready = socket.attachments.header(event, header.attachments)
        socket.watch_attachment()
        for one in ready:
            self.hooks.event(socket, one, header.namespace)

    def _interrupted(self, socket: EngineSocket) -> None:
        broken_off = socket.attachments.interrupted()
        socket.watch_attachment()
        for broken in broken_off:
            self.hooks.event(socket, broken, NAMESPACE)

    async def _connect(self, socket: EngineSocket, pkt: StrictPacket) -> None:
        namespace = pkt.namespace or NAMESPACE
        refusal = pkt.refusal
        if refusal is None and namespace != NAMESPACE:
            # python-socketio would say it in a mere text, of which the JS client shows nothing.
            refusal = InvalidRequest(f"there is no namespace '{namespace}', only '{NAMESPACE}'")
        if refusal is not None:
            await self._send_packet(
                socket.sid, StrictPacket(packet.CONNECT_ERROR, data=refusal_data(refusal), namespace=namespace)
            )
            return
        await self._handle_connect(socket.sid, namespace, pkt.data)
        client = socket.client
        if client is not None and namespace == NAMESPACE and not client.greeted:
            socket.connect_done()
            self.hooks.connected(client.sid, socket)

    # --- python-socketio's own hooks, in case it calls them ------------------------------------------------------------

    async def _trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        """Reached for real connects and disconnects only. No TypeError may leave: it would be taken for an old signature."""
        if namespace != NAMESPACE:
            return self.not_handled
        sid = args[0]
        socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, namespace))
        if event == "connect" and socket is not None:
            try:
                await self.hooks.connect(sid, socket, args[2] if len(args) > 2 else None)
            except FlowManagerError as refusal:
                raise _refused(refusal) from None
            except Exception as exc:
                raise _refused(self.hooks.fault("connect", exc)) from None
            return True
        if event == "disconnect":
            self.hooks.disconnected(sid, socket, str(args[1]) if len(args) > 1 else "")
        return self.not_handled

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        """Not used by our engine; an event that came this way would meet the same rules."""
        socket = self.eio.sockets.get(eio_sid)
        if socket is not None:
            self.hooks.event(socket, judge_event(id, data), namespace or NAMESPACE)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is not None and isinstance(data, str):
            await socket.take(bytes((ord("0") + engine.MESSAGE,)) + data.encode("utf-8", "replace"))


def refusal_data(refusal: FlowManagerError) -> dict[str, Any]:
    """What a client's `connect_error` carries: the JS client reads `err.message` and `err.data`, python-socketio's the whole."""
    return {
        "message": refusal.message,
        "data": {"code": refusal.code, "error_type": refusal.error_type, "message": refusal.message},
    }


def _refused(refusal: FlowManagerError) -> Refused:
    data = refusal_data(refusal)
    return Refused(data["message"], data["data"])


def not_connected() -> Unauthorized:
    return Unauthorized("connect first")
