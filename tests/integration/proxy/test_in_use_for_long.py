"""Half an hour of use through the real proxy, on a clock that the test moves: what is in use is never put to sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from flow_manager.idle.upstream import Candidate
from flow_manager.idle.watcher import Watcher
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy import tcp_connection
from flow_manager.proxy.server import ProxyServer
from flow_manager.proxy.tcp import TcpRoutes
from flow_manager.testing import eventually
from tests.unit.idle.house import IdleBuilder, IdleHouse

IDLE_TIMEOUT = 60
HALF_AN_HOUR = 30 * 60
PATIENCE = 10.0
HEAD = b"Host: web.localhost\r\n"
# RFC 6455, section 5.2: a final text frame of two bytes, and a ping, both masked with zeros.
TEXT, PING = b"\x81\x82\0\0\0\0hi", b"\x89\x80\0\0\0\0"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
async def idle_builder() -> AsyncIterator[IdleBuilder]:
    made = IdleBuilder()
    yield made
    await made.close()


class Program:
    """What the flow runs: it takes one connection, and says what the test tells it to."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connected.set()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def program() -> AsyncIterator[tuple[Program, int]]:
    made = Program()
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    try:
        yield made, server.sockets[0].getsockname()[1]
    finally:
        if made.connected.is_set():
            made.writer.close()
        server.close()


@asynccontextmanager
async def proxied(builder: IdleBuilder, port: int) -> AsyncIterator[tuple[IdleHouse, Watcher, tuple[str, int]]]:
    async with builder.open(proxy_port=0) as house:
        house.prober.upstream = Candidate("127.0.0.1", port)
        web = await house.create(start=True, idle={"idle_timeout": IDLE_TIMEOUT})
        server = ProxyServer(house.core.settings, house.registry, SystemLogger(level="ERROR"), house.clock)
        await server.open()
        try:
            yield house, web, ("127.0.0.1", server.port)
        finally:
            await server.close(1.0)


async def passes(house: IdleHouse, web: Watcher, seconds: float) -> None:
    """So much time passes, and it is awake all along."""
    await house.clock.run(seconds)
    await asyncio.sleep(0)
    assert web.state == "ready", f"put to sleep in use: {web.explain().last_slept}"


async def sleeps_after_its_last_use(house: IdleHouse, web: Watcher) -> None:
    await passes(house, web, IDLE_TIMEOUT - 2)
    await house.clock.run(4)
    await house.comes(web, "napping")


async def test_a_download_of_half_an_hour_is_not_cut_off(idle_builder: IdleBuilder) -> None:
    async with program() as (flow, port), proxied(idle_builder, port) as (house, web, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /large HTTP/1.1\r\n" + HEAD + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            await flow.connected.wait()
            await flow.reader.readuntil(b"\r\n\r\n")
            # Longer than any idle timeout between two pieces: the response streams all the same.
            pause, pieces = IDLE_TIMEOUT * 3, HALF_AN_HOUR // (IDLE_TIMEOUT * 3)
            flow.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * 4))
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(pieces):
                await passes(house, web, pause)
                flow.writer.write(b"more")
                assert await reader.readexactly(4) == b"more"
        assert [lease.kind for lease in web.explain().leases] in ([], ["http"])
        await eventually(lambda: not web.leases.held)
        await sleeps_after_its_last_use(house, web)
        writer.close()
        await writer.wait_closed()


async def test_an_upload_of_half_an_hour_is_not_cut_off(idle_builder: IdleBuilder) -> None:
    async with program() as (flow, port), proxied(idle_builder, port) as (house, web, address):
        reader, writer = await asyncio.open_connection(*address)
        pieces = HALF_AN_HOUR // (IDLE_TIMEOUT - 10)
        writer.write(b"PUT /large HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % (pieces * 4))
        async with asyncio.timeout(PATIENCE):
            await flow.connected.wait()
            await flow.reader.readuntil(b"\r\n\r\n")
            for _ in range(pieces):
                await passes(house, web, IDLE_TIMEOUT - 10)
                writer.write(b"more")
                assert await flow.reader.readexactly(4) == b"more"
            flow.writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: not web.leases.held)
        await sleeps_after_its_last_use(house, web)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("by", ["client", "flow"])
async def test_a_websocket_with_frames_now_and_then_is_left_open_and_one_with_pings_alone_is_not(
    idle_builder: IdleBuilder, by: str
) -> None:
    async with program() as (flow, port), proxied(idle_builder, port) as (house, web, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(
            b"GET /ws HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE):
            await flow.connected.wait()
            await flow.reader.readuntil(b"\r\n\r\n")
            flow.writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(HALF_AN_HOUR // (IDLE_TIMEOUT - 5)):
                await passes(house, web, IDLE_TIMEOUT - 5)
                if by == "client":
                    writer.write(TEXT)
                    assert await flow.reader.readexactly(len(TEXT)) == TEXT
                else:
                    flow.writer.write(b"\x81\x02hi")
                    assert await reader.readexactly(4) == b"\x81\x02hi"
            await passes(house, web, IDLE_TIMEOUT - 5)
            writer.write(PING)
            assert await flow.reader.readexactly(len(PING)) == PING
        await house.clock.run(8)
        await house.comes(web, "napping")
        writer.close()


async def test_a_tcp_session_in_which_something_is_said_now_and_then_is_left_open(
    idle_builder: IdleBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counted on the loop's own clock, on which this half hour takes less than that.
    monkeypatch.setattr(tcp_connection, "TOUCH_INTERVAL", 0.0)
    route: dict[str, Any] = {"listen": "127.0.0.1:0", "container": "web"}
    async with program() as (flow, port), idle_builder.open(tcp_routes=[{**route, "port": port}]) as house:
        web = await house.create(start=True, idle={"idle_timeout": IDLE_TIMEOUT})
        routes = TcpRoutes(house.core.settings, house.registry, SystemLogger(level="ERROR"))
        await routes.open()
        try:
            reader, writer = await asyncio.open_connection(*routes.addresses[0])
            writer.write(b"0")
            async with asyncio.timeout(PATIENCE):
                await flow.connected.wait()
                assert await flow.reader.readexactly(1) == b"0"
                for number in range(HALF_AN_HOUR // (IDLE_TIMEOUT - 5)):
                    await passes(house, web, IDLE_TIMEOUT - 5)
                    one, other = (writer, flow.reader) if number % 2 else (flow.writer, reader)
                    one.write(b"hello")
                    assert await other.readexactly(5) == b"hello"
            await sleeps_after_its_last_use(house, web)
            writer.close()
        finally:
            await routes.close()
