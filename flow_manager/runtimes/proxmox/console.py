"""A container's console: `termproxy`, and the websocket behind it.

Facts of proxmox-termproxy 2.0 and pve-container 6.1: the first message is `user:ticket`, answered with `OK`; then frames
`0:LEN:data`, `1:COLS:ROWS:` and `2` (a ping, which keeps the server from giving up) go there, and plain bytes come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from flow_manager.errors import RuntimeUnavailable, Unsupported
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.errors import Subject, translate
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.resources import text
from flow_manager.runtimes.proxmox.tls import trusting_context

# The server waits ten seconds for the connection: an answer that comes later than this is useless.
ORDER_SECONDS = 8.0
CONNECT_SECONDS = 9.0
SEND_SECONDS = 30.0
CLOSE_SECONDS = 2.0
PING_SECONDS = 30.0
# A server that died with its connections open is noticed by what stays unacknowledged this long; pings are always sent.
DEAD_MILLISECONDS = 90_000
# termproxy reads into a buffer of 8 KiB: a frame that doesn't fit would never be complete.
FRAME_BYTES = 1024
MAX_MESSAGE = 4 * 1024 * 1024
# dtach, which holds the session, leaves it when what it reads begins with this key (Ctrl-\): it must never be sent.
DETACH = b"\x1c"


class Line:
    """One connection to a container's console."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, first: bytes) -> None:
        self._websocket = websocket
        self._first = first
        self._sending = asyncio.Lock()
        self._pings = asyncio.create_task(self._ping(), name="proxmox-console-ping")

    async def receive(self) -> bytes:
        """The next bytes; none: it is over. Nobody asks: the server is held up."""
        data: bytes
        if self._first:
            data, self._first = self._first, b""
            return data
        while True:
            message = await self._websocket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                data = message.data
            elif message.type is aiohttp.WSMsgType.TEXT:
                data = message.data.encode()
            else:
                return b""
            if data:
                return data

    async def type(self, data: bytes) -> None:
        """Keys, in order. On a line that is over they are dropped."""
        data = data.replace(DETACH, b"")
        for start in range(0, len(data), FRAME_BYTES):
            piece = data[start : start + FRAME_BYTES]
            if not await self._send(b"0:%d:%s" % (len(piece), piece)):
                return

    async def resize(self, cols: int, rows: int) -> None:
        await self._send(b"1:%d:%d:" % (cols, rows))

    async def close(self) -> None:
        self._pings.cancel()
        with contextlib.suppress(TimeoutError, OSError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._websocket.close()

    async def _send(self, frame: bytes) -> bool:
        try:
            async with asyncio.timeout(SEND_SECONDS), self._sending:
                await self._websocket.send_bytes(frame)
        except (TimeoutError, OSError, aiohttp.ClientError):
            return False
        return True

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._send(b"2")


class Lines:
    """Connects to consoles, as the REST client does: the same login, the same check of the certificate."""

    def __init__(self, client: PveClient, inventory: Inventory) -> None:
        self._client, self._inventory = client, inventory
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def open(self, known: Known, capability: str) -> Line:
        """:raises Unsupported: the login may not. :raises ContainerNotFound, RuntimeRefused, RuntimeUnavailable:"""
        subject = Subject(known.flow_id, operation=capability)
        try:
            told = await self._inventory.at(
                known, lambda: self._client.post(f"{known.path}/termproxy", within=ORDER_SECONDS), subject
            )
        except CallFailed as failed:
            error = translate(failed, subject)
            if failed.status != 403:
                raise error from None
            raise Unsupported(
                f"{error.message}: give the login's role VM.Console there",
                kind=KIND,
                capability=capability,
                privilege=error.details.get("privilege", "VM.Console"),
                path=error.details.get("path", f"/vms/{known.vmid}"),
                reason=failed.words,
            ) from None
        if not isinstance(told, Mapping) or not text(told.get("ticket")):
            raise _unavailable("it opens no console", "termproxy was answered with something else")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._connect(known, told, capability)
        except TimeoutError:
            raise _unavailable("its console did not answer", f"no connection in {CONNECT_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise _unavailable("its console can't be reached", _words(exc)) from None

    async def _connect(self, known: Known, told: Mapping[str, Any], capability: str) -> Line:
        # `port` comes as a string, whatever the schema says.
        port, ticket, user = (str(told.get(key, "")) for key in ("port", "ticket", "user"))
        query = f"port={quote(port, safe='')}&vncticket={quote(ticket, safe='')}"
        address = f"{self._client.base_url}/{known.path}/vncwebsocket?{query}"
        session = await self._ready()
        websocket = await session.ws_connect(
            URL(address, encoded=True),
            headers=await self._client.credentials(),
            protocols=("binary",),
            max_msg_size=MAX_MESSAGE,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
        )
        try:
            await websocket.send_bytes(f"{user}:{ticket}\n".encode())
            answer = b""
            while len(answer) < 2:
                message = await websocket.receive()
                if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                    raise await self._refused(told, capability)
                answer += message.data if isinstance(message.data, bytes) else message.data.encode()
            if not answer.startswith(b"OK"):
                raise await self._refused(told, capability)
        except BaseException:
            await websocket.close()
            raise
        _notice_death(websocket.get_extra_info("socket"))
        return Line(websocket, answer[2:])

    async def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = await asyncio.to_thread(trusting_context, self._client.verify)
            # No other waits for a connection: each terminal holds one for as long as it is open.
            connector = aiohttp.TCPConnector(ssl=context, limit=0, force_close=True)
            made = aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
            if self._session is None:
                self._session = made
            else:
                await made.close()
        return self._session

    async def _refused(self, told: Mapping[str, Any], capability: str) -> Exception:
        """The connection was closed in the place of an answer: only the task says why."""
        words = ""
        if upid := text(told.get("upid")):
            with contextlib.suppress(CallFailed, RuntimeUnavailable, IndexError):
                node = upid.split(":")[1]
                status = await self._client.get(f"nodes/{node}/tasks/{quote(upid, safe='')}/status", within=3.0)
                words = text(status.get("exitstatus")) if isinstance(status, Mapping) else ""
        if self._client.by_token:
            return Unsupported(
                "the server takes no API token for a console (that needs proxmox-termproxy 2.0.3, of Proxmox VE 9.1): "
                "configure `user` and `password`",
                kind=KIND,
                capability=capability,
                reason=words or "the console closed the connection at the login",
            )
        return _unavailable("its console refused the login", words or "it closed the connection")


def _notice_death(raw: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MILLISECONDS)


def _words(exc: BaseException) -> str:
    if isinstance(exc, aiohttp.WSServerHandshakeError):
        return f"{exc.status} {exc.message}"
    return str(exc)[:200] or type(exc).__name__


def _unavailable(what: str, reason: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(f"the Proxmox VE server can't be used: {what}: {reason}", kind=KIND, reason=reason)
