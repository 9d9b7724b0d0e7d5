"""Engine.IO, one level below Socket.IO (protocol revision 4: https://socket.io/docs/v4/engine-io-protocol/).

engineio keeps the HTTP side: request checks, cross-origin headers, long-polling, session table. What this module replaces
is what each connection costs and how it can be hurt; each point is a measured fault of engineio 4.15 on aiohttp:

- three tasks and two timers for every packet in and out: here the WebSocket is read in a plain loop and written directly;
- no deadline for CONNECT, no cap on connections that never send it;
- a body of a POST is read in one `read`, which gives only what has already come: larger payloads are cut in the middle;
- a POST of more than 16 packets is thrown away whole, and answered `OK`;
- permessage-deflate, which browsers offer, costs 122 KB for every idle connection;
- an upgrade that is begun and never finished, and a malformed packet, leave a trace in the log and a half-open session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import engineio
from aiohttp import web
from engineio import packet

from flow_manager.contract.replies import failure
from flow_manager.errors import RateLimited
from flow_manager.gateway.engine_socket import EngineSocket, Receiver
from flow_manager.gateway.slow_clients import Outbox
from flow_manager.util import strict_json

PING_INTERVAL = 25.0
PING_TIMEOUT = 20.0
# What engine and transport take in one message; past it the connection is closed (a refusal, `payload_too_large`, comes far earlier).
MAX_MESSAGE = 4 * 1024 * 1024
RETRY_AFTER = 5


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]
    """The session table and its doors. `receiver`, the limits and `admit` are set by the gateway before the first request."""

    receiver: Receiver
    client_buffer: int
    connect_deadline: float
    max_clients: int
    max_unauthenticated: int
    count_authenticated: Callable[[], int]
    accepting: bool = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tasks: set[asyncio.Task[Any]] = set()

    def create_queue(self, *args: Any, **kwargs: Any) -> Outbox:
        return Outbox(self.client_buffer)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run beside; kept until done, so that it is neither lost nor left."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until nothing runs beside."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def forget(self, socket: EngineSocket) -> None:
        self.sockets.pop(socket.sid, None)

    def bad_request(self, reason: str) -> web.Response:
        return web.json_response({"code": 3, "message": reason}, status=400)

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        if "j" in request.query:
            # JSONP is a way around the same-origin rule for browsers of 2010.
            return self.bad_request("JSONP is not supported")
        response: web.StreamResponse = await super().handle_request(request)
        return response

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        sid = self.generate_id()
        socket = self.sockets[sid] = EngineSocket(self, sid, environ["aiohttp.request"])
        socket.expect_connect(self.connect_deadline)
        handshake = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1000),
            "pingInterval": int(self.ping_interval * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        await socket.send(packet.Packet(packet.OPEN, handshake))
        await self._trigger_event("connect", sid, environ, run_async=False)
        socket.schedule_ping()
        if transport == "websocket":
            try:
                return await socket.handle_get_request(environ)
            finally:
                # Also when the handshake itself was refused: nothing may stay in the table.
                await socket.close(abort=True, reason=self.reason.TRANSPORT_CLOSE)
        socket.connected = True
        return self._ok(await socket.poll())

    def _refusal(self) -> web.Response | None:
        authenticated = self.count_authenticated()
        if not self.accepting:
            reason = "the service is shutting down"
        elif len(self.sockets) >= self.max_clients + self.max_unauthenticated or authenticated >= self.max_clients:
            reason = "too many clients"
        elif len(self.sockets) - authenticated >= self.max_unauthenticated:
            reason = "too many connections that have not authenticated yet"
        else:
            return None
        error = RateLimited(reason, retry_after=RETRY_AFTER)
        return web.Response(
            status=503,
            body=strict_json.dumps_bytes(failure(error)),
            content_type="application/json",
            headers={"Retry-After": str(RETRY_AFTER)},
        )
