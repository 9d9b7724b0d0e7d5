"""The ready path, in front of real upstreams, on both event loops."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession, TCPConnector, WSMsgType, web

from flow_manager.proxy import downstream, reach
from flow_manager.proxy.server import CLOSE_SECONDS

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

DEADLINE = 10.0
HOST = b"Host: web.localhost\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
MEGABYTE = bytes(range(256)) * 4096


async def head_of(reader: Reader) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await reader.readuntil(b"\r\n\r\n")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


class Upstream:
    """Answers each request with `answer`; remembers heads, bodies and how many connections there were."""

    def __init__(self, answer: bytes = OK, *, close: bool = False) -> None:
        self.answer = answer
        self.close = close
        self.connections = 0
        self.open = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if b"Transfer-Encoding" in head:
                    self.bodies.append(await reader.readuntil(b"0\r\n\r\n"))
                elif length_of(head):
                    self.bodies.append(await reader.readexactly(length_of(head)))
                writer.write(self.answer)
                await writer.drain()
                if self.close:
                    return
        finally:
            self.open -= 1


# --- plain requests ---------------------------------------------------------------------------------------------------


async def test_a_flow_gets_our_own_framing_and_nothing_else(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(
        b"\r\nPOST http://web.localhost/a?b HTTP/1.1\r\nHOST:web.localhost\r\nX-Forwarded-For: 6.6.6.6\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nAccept:  */*\r\nTransfer-Encoding:  CHUNKED\r\n\r\n"
        b"3;ext=1\r\nabc\r\n0002\r\nde\r\n0\r\nTrailer-Field: x\r\n\r\n"
    )
    assert upstream.heads == [
        b"POST /a?b HTTP/1.1\r\nHost: web.localhost\r\nAccept:  */*\r\nTransfer-Encoding: chunked\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: web.localhost\r\n"
        b"X-Forwarded-Port: 80\r\nX-Real-IP: 127.0.0.1\r\n"
        b'Forwarded: for=127.0.0.1;proto=http;host="web.localhost"\r\n\r\n'
    ]
    assert b"".join(upstream.bodies).replace(b"\r\n", b"|") in (b"5|abcde|0||", b"3|abc|2|de|0||")
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def test_connections_are_kept_on_both_sides(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    for _ in range(2):
        reader, writer = await proxy.connect()
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert await head_of(reader) + await reader.readexactly(2) == OK
        writer.close()
    assert len(upstream.heads) == 6
    assert upstream.connections == 1
    assert proxy.flow.held == []
    assert {lease.kind for lease in proxy.flow.leases} == {"http"} and len(proxy.flow.leases) == 6


async def test_pipelined_requests_are_answered_one_at_a_time_and_in_order(proxies: Any, serve: Any, flow: Any) -> None:
    busy = 0

    async def handler(reader: Reader, writer: Writer) -> None:
        nonlocal busy
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            busy += 1
            assert busy == 1
            await asyncio.sleep(0.01)
            busy -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    proxy = await proxies(flow(await serve(handler)))
    requests = [b"GET /%d HTTP/1.1\r\n%b\r\n" % (number, HOST) for number in range(5)]
    answer = await proxy.exchange(b"".join(requests) + b"GET /end HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    bodies = [part.split(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]
    assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/end"]


async def test_a_client_that_pipelines_and_never_reads_is_read_no_more(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000)
    proxy = await proxies(flow(await serve(upstream)))
    _, writer = await proxy.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 200_000)
    served = -1
    async with asyncio.timeout(DEADLINE):
        while served != len(upstream.heads) or not served:
            served = len(upstream.heads)
            await asyncio.sleep(0.3)
    assert served < 2000
    (connection,) = proxy.server._edge.connections
    assert len(connection._buffer) <= 128 * 1024
    writer.transport.abort()


async def test_head_no_content_and_not_modified_have_no_body(proxies: Any, serve: Any, flow: Any) -> None:
    answers = {
        b"HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"GET": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n",
        b"DELETE": b"HTTP/1.1 204 No Content\r\n\r\n",
    }

    async def handler(reader: Reader, writer: Writer) -> None:
        while True:
            writer.write(answers[(await reader.readuntil(b"\r\n\r\n")).split(b" ")[0]])

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    for method, expected in answers.items():
        writer.write(method + b" / HTTP/1.1\r\n" + HOST + b"\r\n")
        head = await head_of(reader)
        assert sorted(head.split(b"\r\n")) == sorted(expected.split(b"\r\n"))
    writer.write(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"200 OK" in await head_of(reader)
    writer.close()


async def test_trailers_are_dropped_and_chunks_written_anew_on_the_way_back(
    proxies: Any, serve: Any, flow: Any
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"
    upstream = Upstream(raw)
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") + b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    )
    assert answer.count(b"5\r\nabcde\r\n0\r\n\r\n") == 2
    assert b"X: y" not in answer and b"Trailer" not in answer
    assert upstream.connections == 1


async def test_a_response_without_a_length_ends_with_its_connection(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream(b"HTTP/1.1 200 OK\r\n\r\nall of it", close=True)
    proxy = await proxies(flow(await serve(upstream)))
    reader, writer = await proxy.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"Transfer-Encoding: chunked" in await head_of(reader)
        assert await reader.readuntil(b"0\r\n\r\n") == b"9\r\nall of it\r\n0\r\n\r\n"
    writer.close()
    assert upstream.connections == 2


async def test_hints_are_passed_on_and_a_stray_continue_is_not(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"103" not in await proxy.exchange(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")


# --- HTTP/1.0 ---------------------------------------------------------------------------------------------------------


async def test_an_old_client_gets_a_plain_body_and_the_end_of_the_connection(
    proxies: Any, serve: Any, flow: Any
) -> None:
    upstream = Upstream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert upstream.heads[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_an_old_client_may_keep_its_connection_where_the_length_is_known(
    proxies: Any, serve: Any, flow: Any
) -> None:
    proxy = await proxies(flow(await serve(Upstream())))
    answer = await proxy.exchange(
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\nGET / HTTP/1.0\r\n" + HOST + b"\r\n"
    )
    assert answer.count(b"200 OK") == 2
    assert b"Connection: keep-alive" in answer


# --- bodies -----------------------------------------------------------------------------------------------------------


async def test_the_client_is_told_to_continue_at_once(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    reader, writer = await proxy.connect()
    writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n" + HOST + b"\r\n")
    assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await head_of(reader)).startswith(b"HTTP/1.1 200")
    assert upstream.bodies == [b"abc"] and b"Expect" not in upstream.heads[0]
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_hundred_megabytes_up_take_little_memory(proxies: Any, serve: Any, flow: Any, chunked: bool) -> None:
    digest, seen = hashlib.sha256(), 0

    async def handler(reader: Reader, writer: Writer) -> None:
        nonlocal seen
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)  # a slow reader at first
        while seen < 100 * len(MEGABYTE):
            if chunked:
                size = int(await reader.readuntil(b"\r\n"), 16)
                data = await reader.readexactly(size + 2)
                data = data[:-2]
            else:
                data = await reader.read(2**18)
            digest.update(data)
            seen += len(data)
        writer.write(OK)

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (100 * len(MEGABYTE))
    process = psutil.Process()
    before = most = process.memory_info().rss
    writer.write(b"PUT / HTTP/1.1\r\n" + framing + b"\r\n" + HOST + b"\r\n")
    expected = hashlib.sha256()
    async with asyncio.timeout(40):
        for _ in range(100):
            expected.update(MEGABYTE)
            writer.write(b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE) if chunked else MEGABYTE)
            await writer.drain()
            most = max(most, process.memory_info().rss)
        if chunked:
            writer.write(b"0\r\n\r\n")
        assert (await head_of(reader)).startswith(b"HTTP/1.1 200")
    assert digest.digest() == expected.digest()
    assert most - before < 40 * 2**20
    writer.close()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_hundred_megabytes_down_to_a_slow_reader_take_little_memory(
    proxies: Any, serve: Any, flow: Any, framing: str
) -> None:
    sent = 0

    async def handler(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        lines = {
            "length": b"Content-Length: %d\r\n" % (100 * len(MEGABYTE)),
            "chunked": b"Transfer-Encoding: chunked\r\n",
        }
        writer.write(b"HTTP/1.1 200 OK\r\n" + lines.get(framing, b"") + b"\r\n")
        for _ in range(100):
            writer.write(b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE) if framing == "chunked" else MEGABYTE)
            await writer.drain()
            sent += 1
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")

    proxy = await proxies(flow(await serve(handler)))
    process = psutil.Process()
    before = most = process.memory_info().rss
    digest, size = hashlib.sha256(), 0
    async with (
        asyncio.timeout(40),
        ClientSession(connector=TCPConnector(force_close=True)) as session,
        session.get(f"http://127.0.0.1:{proxy.port}/", headers={"Host": "web.localhost"}) as response,
    ):
        await asyncio.sleep(0.5)
        assert sent < 50, "the flow was read although the client reads nothing"
        assert len(proxy.flow.held) == 1
        async for data in response.content.iter_any():
            digest.update(data)
            size += len(data)
            most = max(most, process.memory_info().rss)
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(MEGABYTE)
    assert size == 100 * len(MEGABYTE) and digest.digest() == expected.digest()
    assert most - before < 40 * 2**20
    await until(lambda: proxy.flow.held == [])


async def test_an_answer_before_the_body_has_ended_reaches_the_client(proxies: Any, serve: Any, flow: Any) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()

    proxy = await proxies(flow(await serve(handler)))
    answer = await proxy.exchange(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n" + HOST + b"\r\n" + b"x" * 300_000)
    assert answer.startswith(b"HTTP/1.1 413 Too Large\r\n") and answer.endswith(b"no")
    assert b"Connection: close" in answer
    await until(lambda: proxy.flow.held == [])


@pytest.mark.parametrize("body", [b"xyz\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"-1\r\n"])
async def test_a_chunked_body_that_is_none_ends_the_request_on_both_sides(
    proxies: Any, serve: Any, flow: Any, body: bytes
) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await proxy.exchange(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n" + body + smuggled
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    await until(lambda: upstream.open == 0 and proxy.flow.held == [])
    assert upstream.bodies == [] and not any(b"smuggled" in head for head in upstream.heads)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: web.localhost@evil\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\n\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70000, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
async def test_what_is_refused_is_answered_as_a_problem_and_reaches_no_flow(
    proxies: Any, serve: Any, flow: Any, raw: bytes, status: int
) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    reader, writer = await proxy.connect()
    writer.write(raw)
    head = await head_of(reader)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/problem+json\r\n" in head
    body = json.loads(await reader.readexactly(length_of(head)))
    assert body["status"] == status and body["detail"]
    writer.close()
    assert upstream.heads == [] and proxy.flow.leases == []


async def test_http_2_is_never_switched_to(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(
        b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        + HOST
        + b"\r\n"
    )
    assert b"pgrade" not in upstream.heads[0] and b"HTTP2" not in upstream.heads[0]
    assert answer.startswith(b"HTTP/1.1 502 ")


async def test_a_head_that_never_ends_is_given_up(proxies: Any, serve: Any, flow: Any) -> None:
    clock = MovableClock()
    proxy = await proxies(flow(await serve(Upstream())), clock=clock)
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    idle, idle_writer = await proxy.connect()
    await asyncio.sleep(0.1)
    clock.offset += downstream.HEAD_SECONDS + 1
    writer.write(b"x")
    assert (await head_of(reader)).startswith(b"HTTP/1.1 408 ")
    clock.offset += downstream.IDLE_SECONDS
    async with asyncio.timeout(DEADLINE):
        assert await idle.read() == b""
    writer.close()
    idle_writer.close()
    await until(lambda: proxy.server.connections == 0)


class MovableClock:
    def __init__(self) -> None:
        from flow_manager.util.clock import SystemClock

        self.offset = 0.0
        self._clock = SystemClock()

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.offset

    def now(self) -> Any:
        return self._clock.now()


async def test_too_many_connections_are_turned_away_politely(proxies: Any, serve: Any, flow: Any) -> None:
    proxy = await proxies(flow(await serve(Upstream())), max_connections=3)
    kept = [await proxy.connect() for _ in range(3)]
    await until(lambda: proxy.server.connections == 3)
    answer = await proxy.exchange(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in answer
    for reader, writer in kept:
        writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    await until(lambda: proxy.server.connections == 0)
    assert b"200 OK" in await proxy.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")


async def test_near_the_limit_of_descriptors_clients_are_turned_away(proxies: Any, serve: Any, flow: Any) -> None:
    proxy = await proxies(flow(await serve(Upstream())))
    proxy.server._descriptors = 128 + 3
    answer = await proxy.exchange(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")


# --- upstreams that misbehave -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>not HTTP</html>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    ],
    ids=lambda raw: repr(raw)[:50],
)
async def test_an_answer_that_is_none_is_a_bad_gateway(proxies: Any, serve: Any, flow: Any, raw: bytes) -> None:
    upstream = Upstream(raw)
    proxy = await proxies(flow(await serve(upstream)))
    answer = await proxy.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    final = answer[answer.index(b"HTTP/1.1 502 ") :]
    assert json.loads(final.split(b"\r\n\r\n")[1])["code"] == "bad_response"
    await until(lambda: upstream.open == 0 and proxy.flow.held == [])


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_flow_that_dies_in_mid_response_leaves_the_client_without_a_proper_end(
    proxies: Any, serve: Any, flow: Any, framing: bytes
) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + (b"5\r\nhello\r\n" if b"chunked" in framing else b"hello")
        )
        await writer.drain()

    proxy = await proxies(flow(await serve(handler)))
    answer = await proxy.exchange(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"hello" in answer and not answer.endswith(b"0\r\n\r\n")
    await until(lambda: proxy.flow.held == [])


async def test_for_an_old_client_a_response_cut_short_is_a_reset(proxies: Any, serve: Any, flow: Any) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(DEADLINE):
            await reader.read(-1)
    writer.close()


@pytest.mark.parametrize(("method", "status", "seen"), [(b"GET", 200, 3), (b"DELETE", 200, 3), (b"POST", 502, 2)])
async def test_a_kept_connection_that_was_dead_is_replaced_once_for_what_may_be_repeated(
    proxies: Any, serve: Any, flow: Any, method: bytes, status: int, seen: int
) -> None:
    requests: list[bytes] = []

    async def handler(reader: Reader, writer: Writer) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        requests.append(await reader.readuntil(b"\r\n\r\n"))  # and gone without a word

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await head_of(reader)
    await reader.readexactly(2)
    writer.write(method + b" /2 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    assert (await head_of(reader)).startswith(b"HTTP/1.1 %d " % status)
    assert len(requests) == seen
    writer.close()


async def test_a_connection_on_which_a_flow_speaks_unasked_is_not_used(proxies: Any, serve: Any, flow: Any) -> None:
    connections = 0

    async def handler(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert await head_of(reader) + await reader.readexactly(2) == OK
        await asyncio.sleep(0.15)
    assert connections == 2
    writer.close()


async def test_a_connection_of_an_earlier_start_is_not_used(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream)))
    for _ in range(2):
        await proxy.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        proxy.flow.start(proxy.flow.upstream)
    assert upstream.connections == 2
    await until(lambda: upstream.open == 0)  # the sweep closes what is left


async def test_a_flow_that_refuses_and_stays_ready_is_a_bad_gateway(
    proxies: Any, serve: Any, flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "PATIENCE_SECONDS", 0.1)
    proxy = await proxies(flow(("127.0.0.1", 1)))
    answer = await proxy.exchange(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n" + HOST + b"\r\nabc")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"Retry-After: 2\r\n" in answer and b"application/problem+json" in answer
    assert proxy.flow.held == []


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_when_the_client_leaves_the_flow_is_told_and_the_lease_ends(
    proxies: Any, serve: Any, flow: Any, begun: bool, how: str
) -> None:
    left = asyncio.Event()

    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if begun:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        try:
            await reader.read()
        finally:
            left.set()

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
    if begun:
        await reader.readuntil(b"data: 1\n\n")
    await proxy.flow.until(lambda: len(proxy.flow.held) == 1)
    if how == "reset":
        writer.transport.abort()
    else:
        writer.close()
    async with asyncio.timeout(3):
        await left.wait()
    await proxy.flow.until(lambda: proxy.flow.held == [])


async def test_a_client_that_only_ends_its_side_gets_its_answer(proxies: Any, serve: Any, flow: Any) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(8):
            writer.write(b"x")
            await asyncio.sleep(0.2)

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    assert answer.endswith(b"0\r\n\r\n") and answer.count(b"1\r\nx\r\n") >= 1
    writer.close()


async def test_a_client_that_leaves_in_mid_upload_ends_the_request(proxies: Any, serve: Any, flow: Any) -> None:
    ended = asyncio.Event()

    async def handler(reader: Reader, writer: Writer) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    proxy = await proxies(flow(await serve(handler)))
    _, writer = await proxy.connect()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n" + HOST + b"\r\nabc")
    await proxy.flow.until(lambda: len(proxy.flow.held) == 1)
    writer.close()
    async with asyncio.timeout(DEADLINE):
        await ended.wait()
    await proxy.flow.until(lambda: proxy.flow.held == [])


# --- upgrades ---------------------------------------------------------------------------------------------------------


async def start_app(app: web.Application) -> tuple[web.AppRunner, tuple[str, int]]:
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, (host, port)


async def test_a_websocket_is_tunnelled_and_only_its_data_counts_as_use(proxies: Any, flow: Any) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False, max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            else:
                await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/ws", echo)
    runner, address = await start_app(app)
    try:
        proxy = await proxies(flow(address))
        async with (
            ClientSession() as session,
            session.ws_connect(
                f"http://127.0.0.1:{proxy.port}/ws", headers={"Host": "web.localhost"}, autoping=False, max_msg_size=0
            ) as socket,
        ):
            assert [lease.kind for lease in proxy.flow.held] == ["websocket"]
            (lease,) = proxy.flow.held
            await socket.ping(b"still there?")
            assert (await socket.receive()).type is WSMsgType.PONG
            assert lease.touched == 0
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            touched = lease.touched
            assert touched >= 2
            await socket.ping()
            assert (await socket.receive()).type is WSMsgType.PONG
            assert lease.touched == touched
            large = MEGABYTE * 5
            await socket.send_bytes(large)
            assert await socket.receive_bytes() == large
        await proxy.flow.until(lambda: proxy.flow.held == [])
    finally:
        await runner.cleanup()


async def test_another_protocol_is_tunnelled_with_half_close_and_every_byte_counts(
    proxies: Any, serve: Any, flow: Any
) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: Upgrade\r\nUpgrade: Echo/1\r\n" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nhello ")
        writer.write(await reader.read(-1))  # until the client ends its side
        await writer.drain()

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: Echo/1\r\n" + HOST + b"\r\nearly ")
    assert b"101" in await head_of(reader)
    assert [lease.kind for lease in proxy.flow.held] == ["tcp"]
    writer.write(b"late")
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        assert await reader.read(-1) == b"hello early late"
    writer.close()
    await proxy.flow.until(lambda: proxy.flow.held == [])
    assert proxy.flow.leases[-1].touched >= 2


async def test_a_refused_upgrade_is_an_ordinary_answer(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
    proxy = await proxies(flow(await serve(upstream)))
    reader, writer = await proxy.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + HOST + b"\r\n")
        assert b" 426 " in await head_of(reader)
        await reader.readexactly(2)
    writer.close()


# --- to the slow path and back ----------------------------------------------------------------------------------------


def idle(**fields: Any) -> Any:
    from flow_manager.contract.models import IdlePolicy

    return IdlePolicy(**fields)


async def test_a_held_request_is_forwarded_whole_and_says_that_it_waited(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    address = await serve(upstream)
    proxy = await proxies(flow(None, state="napping", policy=idle()))
    may_wake = asyncio.Event()

    async def wake() -> None:
        await may_wake.wait()
        proxy.flow.start(address)

    proxy.flow.on_wake = wake
    body = MEGABYTE
    reader, writer = await proxy.connect()
    writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n%b\r\n" % (len(body), HOST))
    assert b"100 Continue" in await head_of(reader)
    writer.write(body)
    await until(lambda: proxy.flow.wakes == 1)
    await asyncio.sleep(0.2)
    (connection,) = proxy.server._edge.connections
    assert 0 < connection.body.size <= 64 * 1024
    may_wake.set()
    head = await head_of(reader)
    assert head.startswith(b"HTTP/1.1 200") and b"X-Flow-Cold-Start: true\r\n" in head
    assert upstream.bodies == [body]
    await reader.readexactly(2)
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"Cold-Start" not in await head_of(reader)
    writer.close()


async def test_a_flow_that_went_away_meanwhile_is_woken_again(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    address = await serve(upstream)
    proxy = await proxies(flow(("127.0.0.1", 1), policy=idle()))

    async def wake() -> None:
        proxy.flow.start(address)

    proxy.flow.on_wake = wake
    reader, writer = await proxy.connect()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n" + HOST + b"\r\nabc")
    await proxy.flow.until(lambda: len(proxy.flow.leases) == 1)
    await asyncio.sleep(0.1)
    proxy.flow.state = "napping"
    head = await head_of(reader)
    assert head.startswith(b"HTTP/1.1 200") and b"X-Flow-Cold-Start: true" in head
    assert (proxy.flow.wakes, upstream.bodies) == (1, [b"abc"])
    await until(lambda: proxy.flow.held == [])
    writer.close()


async def test_the_reserved_paths_of_a_ready_flow_are_not_forwarded(proxies: Any, serve: Any, flow: Any) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream), policy=idle()))
    answer = await proxy.exchange(b"GET /.flow/status HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and b'"name":"web"' in answer
    assert upstream.heads == [] and proxy.flow.leases == []


async def test_probes_and_icons_of_a_ready_flow_are_forwarded_and_are_no_use(
    proxies: Any, serve: Any, flow: Any
) -> None:
    upstream = Upstream()
    proxy = await proxies(flow(await serve(upstream), policy=idle(probes=[{"path": "/healthz"}])))
    await proxy.exchange(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    await proxy.exchange(
        b"GET /favicon.ico HTTP/1.1\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\n" + HOST + b"\r\n"
    )
    assert proxy.flow.leases == [] and len(upstream.heads) == 2
    await proxy.exchange(b"GET /other HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    assert len(proxy.flow.leases) == 1


async def test_a_client_that_leaves_while_it_is_held_is_forgotten(proxies: Any, flow: Any) -> None:
    proxy = await proxies(flow(None, state="napping", policy=idle()))
    cancelled = asyncio.Event()

    async def wake() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    proxy.flow.on_wake = wake
    _, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: proxy.flow.wakes == 1)
    writer.transport.abort()
    async with asyncio.timeout(DEADLINE):
        await cancelled.wait()
    assert proxy.server.connections == 0


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_closing_waits_no_longer_than_it_is_told_and_leaves_nothing(proxies: Any, serve: Any, flow: Any) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbegun")
        await reader.read()

    streaming = flow(await serve(handler))
    asleep = flow(None, id="b" * 12, name="asleep", state="napping", policy=idle(), on_wake=asyncio.Event().wait)
    proxy = await proxies(streaming, asleep)
    stream, stream_writer = await proxy.connect()
    stream_writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await stream.readuntil(b"begun")
    held, held_writer = await proxy.connect()
    held_writer.write(b"GET / HTTP/1.1\r\nHost: asleep.localhost\r\n\r\n")
    resting, resting_writer = await proxy.connect()
    await until(lambda: asleep.wakes == 1 and proxy.server.connections == 3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await proxy.server.close(0.5)
    assert 0.5 <= loop.time() - began < CLOSE_SECONDS
    assert proxy.server.connections == 0 and streaming.held == []
    assert (await held.read()).startswith(b"HTTP/1.1 503 ")
    assert await resting.read() == b""
    for writer in (stream_writer, held_writer, resting_writer):
        writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_a_response_under_way_may_end_before_the_proxy_does(proxies: Any, serve: Any, flow: Any) -> None:
    going: Callable[[], Awaitable[Any]] = asyncio.Event().wait

    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        for _ in range(20):
            # Longer than the second or so that a shutdown of an idle proxy takes.
            await asyncio.sleep(0.1)
            writer.write(b"ab")
        await going()

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await head_of(reader)
    loop = asyncio.get_running_loop()
    began = loop.time()
    closing = loop.create_task(proxy.server.close())
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await reader.read() == b"ab" * 20
    await closing
    assert loop.time() - began < CLOSE_SECONDS, "it ends with the last response"
    writer.close()


async def test_a_stream_of_events_does_not_delay_the_end(proxies: Any, serve: Any, flow: Any) -> None:
    async def handler(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream\r\n\r\ndata: 1\n\n")
        await reader.read()

    proxy = await proxies(flow(await serve(handler)))
    reader, writer = await proxy.connect()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await reader.readuntil(b"data: 1\n\n")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await proxy.server.close()
    assert loop.time() - began < CLOSE_SECONDS
    assert proxy.flow.held == []
    writer.close()
