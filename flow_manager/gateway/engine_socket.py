"""One Engine.IO session: what it costs and how it can be hurt. The table of sessions, and why, is in `engine`."""

from __future__ import annotations

import asyncio
import binascii
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import WSMsgType, web
from engineio import async_socket, exceptions, packet

from flow_manager.gateway.attachments import Attachments
from flow_manager.gateway.frames import Frame
from flow_manager.gateway.slow_clients import DIRECT_BOUND

if TYPE_CHECKING:
    from flow_manager.gateway.engine import EngineServer

# Packets in one long-polling POST: more than any client buffers, and few enough to be handled in one go.
MAX_PACKETS_IN_POST = 4096
# Packets in one long-polling answer: python-engineio's client drops the connection for one that holds more.
MAX_PACKETS_IN_POLL = 16
# Seconds that a client may take to send the body of a POST, and each step of an upgrade.
BODY_TIMEOUT = 20.0
UPGRADE_TIMEOUT = 10.0
# Seconds in which an event's attachment must follow its header: who announced one and forgot it is to have an answer, too.
ATTACHMENT_TIMEOUT = 10.0
# Seconds that a client may take to answer our closing frame, before its transport is aborted.
CLOSE_TIMEOUT = 1.0
# Seconds for which events of one client are handled in a row before the others get their turn. By time, not by number: a list
# of many flows takes a thousand times what a status does.
FAIR_SHARE = 0.003
SEPARATOR = b"\x1e"

_CLOSE, _PONG, _MESSAGE, _UPGRADE = b"1345"
# Binary data in long-polling: base64 behind it (Engine.IO protocol, "Packet encoding").
_BINARY = ord("b")
_EVENT = ord("2")


class Receiver(Protocol):
    """Who takes what comes in."""

    def on_event(self, socket: EngineSocket, raw: bytes) -> None:
        """A Socket.IO EVENT packet; synchronous, quick, never raises."""
        ...

    def on_attachment(self, socket: EngineSocket, data: bytes) -> None:
        """A binary message; synchronous, quick, never raises."""
        ...

    def on_attachment_overdue(self, socket: EngineSocket) -> None:
        """An announced attachment did not come in time; never raises."""
        ...

    async def on_packet(self, socket: EngineSocket, raw: bytes) -> None:
        """Any other Socket.IO packet; never raises."""
        ...

    def on_malformed(self, socket: EngineSocket, reason: str) -> None:
        """Something that is no Engine.IO packet; never raises."""
        ...

    def on_cut(self, socket: EngineSocket) -> None:
        """A slow client was cut off; never raises."""
        ...


class EngineSocket(async_socket.AsyncSocket):  # type: ignore[misc]
    """One Engine.IO session. `client` is set while Socket.IO's namespace is connected."""

    connected: bool
    upgrading: bool
    upgraded: bool
    closing: bool
    closed: bool

    def __init__(self, server: EngineServer, sid: str, request: web.Request) -> None:
        super().__init__(server, sid)
        self.request = request
        self.client: Any = None
        self.attachments = Attachments()
        self._loop = asyncio.get_running_loop()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._attachment: asyncio.TimerHandle | None = None
        self._websocket: web.WebSocketResponse | None = None
        self.queue.on_overflow = self._overflow

    @property
    def peer(self) -> str:
        """The address at the other end (engineio's `REMOTE_ADDR` is always 127.0.0.1)."""
        return self.request.remote or "unknown"

    # --- sending ---------------------------------------------------------------------------------------------------

    async def send(self, pkt: Any) -> None:
        self.queue.put_nowait(pkt)

    def _overflow(self) -> None:
        self.server.receiver.on_cut(self)
        self.cut(self.server.reason.TRANSPORT_ERROR)

    def cut(self, reason: str) -> None:
        """End the connection now, whatever still waits: the memory of a stalled client is free at once."""
        self.queue.discard()
        self._abort_transport()
        if not self.closing:
            self.server.spawn(self.close(abort=True, reason=reason))

    def _abort_transport(self) -> None:
        transport = self.request.transport
        if self.upgraded and transport is not None:
            transport.abort()

    # --- time ------------------------------------------------------------------------------------------------------

    def expect_connect(self, seconds: float) -> None:
        """Close unless CONNECT succeeds in time: 300 sessions that never sent it stayed open for more than 100 s."""
        self.connect_done()
        self._deadline = self._loop.call_later(seconds, self._overdue, self.server.reason.SERVER_DISCONNECT)

    def connect_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def watch_attachment(self) -> None:
        """After each header and each attachment: what is announced must come in time, counted from its header."""
        if self._attachment is not None:
            self._attachment.cancel()
            self._attachment = None
        if self.attachments.awaited and not self.closing:
            overdue = self.server.receiver.on_attachment_overdue
            self._attachment = self._loop.call_later(ATTACHMENT_TIMEOUT, overdue, self)

    def schedule_ping(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if not self.closing:
            self._heartbeat = self._loop.call_later(self.server.ping_interval, self._ping)

    def _ping(self) -> None:
        self.queue.put_nowait(packet.Packet(packet.PING))
        self._heartbeat = self._loop.call_later(
            self.server.ping_timeout, self._overdue, self.server.reason.PING_TIMEOUT
        )

    def _overdue(self, reason: str) -> None:
        self.cut(reason)

    async def check_ping_timeout(self) -> bool:
        return not self.closed

    # --- receiving -------------------------------------------------------------------------------------------------

    async def take(self, raw: bytes) -> None:
        """One Engine.IO packet. Never raises for what a client can send."""
        kind = raw[0] if raw else 0
        if kind == _MESSAGE:
            if len(raw) > 1 and raw[1] == _EVENT:
                self.server.receiver.on_event(self, raw[1:])
            else:
                await self.server.receiver.on_packet(self, raw[1:])
        elif kind == _BINARY:
            try:
                self.server.receiver.on_attachment(self, binascii.a2b_base64(raw[1:], strict_mode=True))
            except binascii.Error:
                self.server.receiver.on_malformed(self, "an attachment that is not base64")
        elif kind == _PONG:
            self.schedule_ping()
        elif kind == _CLOSE:
            await self.close(abort=True, reason=self.server.reason.CLIENT_DISCONNECT)
        elif kind == _UPGRADE:
            self.queue.put_nowait(packet.Packet(packet.NOOP))
        else:
            self.server.receiver.on_malformed(self, "not an Engine.IO packet")

    async def handle_get_request(self, environ: dict[str, Any]) -> Any:
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            return await self._upgrade_websocket(environ)
        return await super().handle_get_request(environ)

    async def poll(self) -> list[Any]:
        """What waits for a long-polling client, as much as it takes at once; empty when the session ended.

        :raises QueueEmpty: when nothing came for longer than the pings allow.
        """
        try:
            async with asyncio.timeout(self.server.ping_interval + self.server.ping_timeout):
                packets = _packets(await self.queue.get())
        except TimeoutError:
            raise exceptions.QueueEmpty() from None
        # One frame may be two packets, which stay together.
        while len(packets) < MAX_PACKETS_IN_POLL - 1 and not self.queue.empty():
            packets += _packets(self.queue.get_nowait())
        return packets

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        request: web.Request = environ["aiohttp.request"]
        length = request.content_length
        if length is None or length > self.server.max_http_buffer_size:
            raise exceptions.ContentTooLongError()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await request.content.readexactly(length)
        except (TimeoutError, asyncio.IncompleteReadError):
            raise exceptions.SocketIsClosedError() from None
        if body.count(SEPARATOR) >= MAX_PACKETS_IN_POST:
            raise exceptions.ContentTooLongError()
        turn = monotonic() + FAIR_SHARE
        for raw in body.split(SEPARATOR):
            if self.closed:
                return
            await self.take(raw)
            if monotonic() > turn:
                await asyncio.sleep(0)
                turn = monotonic() + FAIR_SHARE

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        if self.upgraded or self.upgrading:
            return self.server.bad_request("already upgraded")
        request: web.Request = environ["aiohttp.request"]
        websocket = web.WebSocketResponse(
            max_msg_size=self.server.max_http_buffer_size,
            compress=False,
            decode_text=False,
            timeout=CLOSE_TIMEOUT,
            writer_limit=DIRECT_BOUND,
        )
        await websocket.prepare(request)
        if self.connected and not await self._probe(websocket):
            await websocket.close()
            return websocket
        transport = request.transport
        if transport is None or self.closed:
            return websocket
        self.request, self._websocket = request, websocket
        self.connected = self.upgraded = True
        self.queue.attach(websocket, transport)
        try:
            await self._read(websocket)
        finally:
            await self.close(abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        return websocket

    async def _probe(self, websocket: web.WebSocketResponse) -> bool:
        """The handshake of an upgrade from long-polling: probe, our answer, upgrade."""
        self.upgrading = True
        try:
            async with asyncio.timeout(UPGRADE_TIMEOUT):
                if (await websocket.receive()).data != b"2probe":
                    return False
                await websocket.send_str("3probe")
                self.queue.put_nowait(packet.Packet(packet.NOOP))  # ends the poll that waits
                return bool((await websocket.receive()).data == b"5")
        except (TimeoutError, ConnectionError):
            return False
        finally:
            self.upgrading = False

    async def _read(self, websocket: web.WebSocketResponse) -> None:
        turn = monotonic() + FAIR_SHARE
        while not self.closed:
            message = await websocket.receive()
            if message.type is WSMsgType.TEXT:
                await self.take(message.data)
            elif message.type is WSMsgType.BINARY:
                self.server.receiver.on_attachment(self, message.data)
            else:
                return
            if monotonic() > turn:
                await asyncio.sleep(0)
                turn = monotonic() + FAIR_SHARE

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """End the session. `abort`: the other side is gone or is to be gone, nothing is said. Never waits for the client."""
        if self.closed or self.closing:
            return
        self.closing = True
        self.connect_done()
        for timer in (self._heartbeat, self._attachment):
            if timer is not None:
                timer.cancel()
        server = self.server
        try:
            await server._trigger_event(
                "disconnect", self.sid, reason or server.reason.SERVER_DISCONNECT, run_async=False
            )
        finally:
            server.forget(self)
            if abort:
                self.queue.discard()
            else:
                self.queue.put_nowait(packet.Packet(packet.CLOSE))
            self.closed = True
            if self._websocket is not None and not self._websocket.closed:
                if abort:
                    self._abort_transport()
                else:
                    server.spawn(self._close_websocket(self._websocket))

    async def _close_websocket(self, websocket: web.WebSocketResponse) -> None:
        """Say goodbye; who doesn't answer in time, or doesn't even read, is cut off."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await websocket.close(drain=False)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.queue.discard()
            self._abort_transport()


def _packets(item: Any) -> list[Any]:
    if item is None:
        return []
    return item.packets() if isinstance(item, Frame) else [item]
