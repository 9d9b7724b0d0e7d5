"""Clients and flows with odd manners, through the whole service: real watchers, leases, TCP routes, and a process flow."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import socketio

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from flow_manager.testing import eventually

pytestmark = pytest.mark.timeout(120)

DEADLINE = 15.0
HOST = b"Host: web.localhost\r\n"
LAST = HOST + b"Connection: close\r\n"
# What is in the path it sends, byte for byte, and for other paths the body that it got. /slow takes its time.
PROGRAM = r"""
import base64, os, socket, threading, time

def until(client, data, end):
    while end not in data:
        more = client.recv(65536)
        if not more:
            raise EOFError
        data += more
    return data.partition(end)

def serve(client):
    rest = b""
    while True:
        head, _, rest = until(client, rest, b"\r\n\r\n")
        body = b""
        fields = head.lower()
        if b"transfer-encoding: chunked" in fields:
            while True:
                size, _, rest = until(client, rest, b"\r\n")
                while len(rest) < int(size, 16) + 2:
                    rest += client.recv(65536)
                body, rest = body + rest[:int(size, 16)], rest[int(size, 16) + 2:]
                if int(size, 16) == 0:
                    break
        elif b"content-length:" in fields:
            size = int(fields.partition(b"content-length:")[2].split(b"\r\n")[0])
            while len(rest) < size:
                more = client.recv(65536)
                if not more:
                    raise EOFError
                rest += more
            body, rest = rest[:size], rest[size:]
        path = head.split(b" ")[1]
        if path == b"/slow":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
            for _ in range(20):
                time.sleep(0.1)
                client.sendall(b"abc")
        elif path.startswith((b"/says/", b"/leaves/")):
            client.sendall(base64.urlsafe_b64decode(path.split(b"/")[2]))
            if path.startswith(b"/leaves/"):
                return
        else:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            if not head.startswith(b"HEAD"):
                client.sendall(body)

def handle(client):
    with client:
        try:
            serve(client)
        except (OSError, EOFError):
            pass

server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=512)
while True:
    threading.Thread(target=handle, args=(server.accept()[0],), daemon=True).start()
"""


@dataclass
class House:
    service: Service
    route: int
    _client: socketio.AsyncClient

    async def call(self, event: str, **data: Any) -> Any:
        reply = await self._client.call(event, data, timeout=60)
        assert reply["error"] is False, reply
        return reply["data"]

    async def leases(self) -> list[Any]:
        found: list[Any] = (await self.call("explain_container", container_id="web"))["leases"]
        return found

    async def connect(self, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port or self.service.proxy_port)

    async def ask(self, *pieces: bytes, gap: float = 0.0, end: bool = False, port: int | None = None) -> bytes:
        """All that comes back for these, sent `gap` seconds apart, until the other side closes. `end`: close ours first."""
        reader, writer = await self.connect(port)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(gap)
            if end:
                writer.write_eof()
            async with asyncio.timeout(DEADLINE):
                return await reader.read(-1)
        finally:
            writer.close()

    async def says(self, raw: bytes, *, method: bytes = b"GET", leaves: bool = False, fields: bytes = b"") -> bytes:
        """What the client gets where the flow answers that; and then, on the same connection, for another request."""
        path = (b"/leaves/" if leaves else b"/says/") + base64.urlsafe_b64encode(raw)
        first = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, HOST, fields)
        return await self.ask(first + b"POST /after HTTP/1.1\r\n" + LAST + b"Content-Length: 5\r\n\r\nafter")


@asynccontextmanager
async def opened() -> AsyncIterator[House]:
    root = Path(tempfile.mkdtemp(prefix="fm-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        route = free.getsockname()[1]
    settings = Settings.model_validate(
        {
            "port": 0,
            "proxy_port": 0,
            "runtime": "process",
            "adopt": False,
            "state_dir": root / "state",
            "sockets_dir": root / "s",
            "log": {"level": "WARNING"},
            "tcp_routes": [{"listen": f"127.0.0.1:{route}", "container": "web", "port": 8000}],
        }
    )
    client = socketio.AsyncClient(reconnection=False)
    try:
        async with Service(settings) as service:
            await client.connect(service.url, transports=["websocket"])
            house = House(service, route, client)
            await house.call(
                "create_container",
                image="local",
                name="web",
                command=[sys.executable, "-c", PROGRAM],
                ports={"8000": 0},
                idle={"idle_timeout": 600, "wake_timeout": 60},
            )
            yield house
            await client.disconnect()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


AFTER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nafter"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TO_WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


async def test_clients_with_odd_manners_are_answered_and_leave_nothing(house: House) -> None:
    assert b"X-Flow-Cold-Start: true" in await house.ask(b"GET / HTTP/1.1\r\n" + LAST + b"\r\n")
    chunked = b"POST / HTTP/1.1\r\n" + LAST + b"Transfer-Encoding: chunked\r\n"
    hello = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    extended = b'5;a=b;c="d e"\r\nhello\r\n0;last\r\nX-T: v\r\n\r\n'
    assert await house.ask(chunked + b"Trailer: X-T\r\n\r\n" + extended) == hello
    assert await house.ask(*(bytes((byte,)) for byte in chunked + b"\r\n" + extended)) == hello
    expecting = b"POST / HTTP/1.1\r\n" + LAST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert await house.ask(expecting, b"hello", gap=0.05) == b"HTTP/1.1 100 Continue\r\n\r\n" + hello
    post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    assert (await house.ask(post * 5, end=True)).count(b"\r\n\r\nabc") == 5
    assert (await house.ask(post * 5 + b"\r\n", end=True)).count(b"\r\n\r\nabc") == 5
    assert (await house.ask(post * 2 + post[:-1], end=True)).count(b"\r\n\r\nabc") == 2
    assert await house.ask(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", end=True) == hello.replace(b"5", b"0")[:-5]
    assert await house.ask(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc", end=True) == b""
    assert await house.ask(b"GET / HTTP/1.1\r\nHost: we", end=True) == b""
    for broken, status in (
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc\x00garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 20_000, b"414"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET /\r\n\r\n", b"400"),
    ):
        assert b"HTTP/1.1 %b " % status in await house.ask(broken)
    await eventually(lambda: _is_empty(house), what="no lease left")


async def _is_empty(house: House) -> bool:
    return not await house.leases()


@pytest.mark.parametrize(
    ("raw", "options", "got"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", {"method": b"HEAD"}, OK[:-2]),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", {}, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nX: y\r\n\r\nok", {}, b"HTTP/1.1 304 Not Modified\r\nX: y\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, {}, OK),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, {}, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", {"leaves": True}, OK),
        (OK + b"too much", {}, OK),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            {},
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (OK, {"fields": TO_WEBSOCKET}, OK),
    ],
    ids=["HEAD with a body", "204 with one", "304 with one", "100", "103", "close", "too long", "426", "no upgrade"],
)
async def test_what_odd_flows_answer_is_put_right_and_spoils_nothing_after_it(
    house: House, raw: bytes, options: dict[str, Any], got: bytes
) -> None:
    await house.ask(b"GET / HTTP/1.1\r\n" + LAST + b"\r\n")
    assert await house.says(raw, **options) == got + AFTER


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"])  # fmt: skip
async def test_an_answer_that_is_cut_ends_the_connection(house: House, raw: bytes) -> None:
    await house.ask(b"GET / HTTP/1.1\r\n" + LAST + b"\r\n")
    got = await house.says(raw, leaves=True)
    assert got.startswith(raw[:40]) and b"after" not in got and not got.endswith(b"0\r\n\r\n")


async def test_slow_heads_keep_nobody_else_waiting(house: House) -> None:
    slow = [await house.connect() for _ in range(200)]
    for _reader, writer in slow:
        writer.write(b"GET / HTTP/1.1\r\nHost: web.loc")
    for _ in range(5):
        assert b" 200 OK" in await house.ask(b"GET / HTTP/1.1\r\n" + LAST + b"\r\n")
    assert await house.leases() == [], "half a head is no use of a flow"
    for _reader, writer in slow:
        writer.close()


async def test_a_tcp_client_that_has_said_all_gets_its_answer_and_the_end(house: House) -> None:
    asked = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    got = await house.ask(asked, end=True, port=house.route)
    assert got == b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    await eventually(lambda: _is_empty(house), what="no lease left")


async def test_a_download_may_end_before_the_service_does() -> None:
    async with opened() as house:
        await house.ask(b"GET / HTTP/1.1\r\n" + LAST + b"\r\n")
        reader, writer = await house.connect()
        writer.write(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"abc")
        began = time.monotonic()
        stopping = asyncio.create_task(house.service.stop())
        async with asyncio.timeout(DEADLINE):
            assert await reader.read(-1) == b"abc" * 19
            await stopping
        assert time.monotonic() - began < house.service.settings.shutdown_timeout
        writer.close()
