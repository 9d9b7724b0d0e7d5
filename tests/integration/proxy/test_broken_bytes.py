"""What clients and flows could send, by chance or on purpose: nothing of it is passed on ill-formed, taken for another's, or left.

Seeded, so each run tries the same. `FLOW_MANAGER_FUZZ=20000` tries that many instead, and others.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]), pytest.mark.timeout(3600)]

TIMES = int(os.environ.get("FLOW_MANAGER_FUZZ", "0"))
FEW = 150
DEADLINE = 20.0
AT_ONCE = 16
HOST = b"Host: web.localhost\r\n"
REQUESTS = (
    b"GET /a HTTP/1.1\r\n" + HOST + b"Accept: */*\r\n\r\n",
    b"POST /b HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET /d HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"PUT /e HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /f HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET http://web.localhost/g HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1.2.3.4\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
)
PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"\x80", b"\x1f", b"0", b"-1", b"+", b"\r\n\r\n", b"0\r\n\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n"),
    *(b"Connection: close\r\n", b"Connection: Content-Length\r\n", b"HTTP/1.0", b"HTTP/1.1", b"Upgrade: h2c\r\n", b"HEAD "),
    *(b"GET /evil HTTP/1.1\r\n" + HOST + b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", HOST),
)  # fmt: skip
HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [\t\x20-\x7e\x80-\xff]*\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
ASKED = re.compile(
    rb"([A-Z-]+) (\S+) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n\Z"
)


def spoil(random_: random.Random, raw: bytes) -> bytes:
    for _ in range(random_.randint(0, 3)):
        at = random_.randrange(len(raw) + 1)
        to = min(len(raw), at + random_.randint(1, 20))
        raw = random_.choice(
            (
                lambda raw=raw, at=at, to=to: raw[:at] + raw[to:],
                lambda raw=raw, at=at, to=to: raw[:to] + raw[at:],
                lambda raw=raw, at=at: raw[:at] + random_.choice(PIECES) + raw[at:],
                lambda raw=raw, at=at: raw[:at] + random_.choice(PIECES) + raw[at:],
                lambda raw=raw, at=at: raw[:at] + bytes((random_.randrange(256),)) + raw[at + 1 :],
                lambda raw=raw, at=at: raw[:at],
            )
        )()
    return raw


def in_pieces(random_: random.Random, raw: bytes) -> list[bytes]:
    cuts = sorted(random_.randrange(len(raw) + 1) for _ in range(random_.randint(0, 3)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def values(fields: bytes, name: bytes) -> list[bytes]:
    lines = (line.partition(b":") for line in fields.split(b"\r\n"))
    return [value.strip() for key, _, value in lines if key.lower() == name]


def responses(raw: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Status and body of each, read strictly, and whether it is whole: the last may be cut."""
    while raw:
        found = HEAD.match(raw)
        assert found is not None, raw
        status, fields = int(found[1]), found[2]
        raw = raw[found.end() :]
        lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, fields
        if status < 200 or status in (204, 304):
            yield status, b"", True
        elif codings:
            assert codings == [b"chunked"]
            body, whole, raw = chunked(raw)
            yield status, body, whole
        elif lengths:
            size = int(lengths[0])
            yield status, raw[:size], len(raw) >= size
            raw = raw[size:]
        else:
            yield status, raw, True
            raw = b""


def chunked(raw: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        line, end, rest = raw.partition(b"\r\n")
        if not end:
            return body, False, b""
        size = int(line, 16)
        if len(rest) < size + 2:
            return body + rest[:size], False, b""
        assert rest[size : size + 2] == b"\r\n", rest
        body, raw = body + rest[:size], rest[size + 2 :]
        if not size:
            return body, True, raw


async def read_all(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        async with asyncio.timeout(DEADLINE):
            while data := await reader.read(65536):
                got += data
    except ConnectionResetError:
        pass
    return got


async def each(times: int, seed: int, one: Any) -> None:
    """`one(random)` so many times, some at once, each with a random of its own."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run(number: int) -> None:
        async with room:
            await one(random.Random(seed * 1_000_003 + number))

    await asyncio.gather(*(run(number) for number in range(times)))


async def test_nothing_ill_formed_reaches_a_flow(proxies: Any, serve: Any, flow: Any) -> None:
    complaints: list[bytes] = []
    served = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = ASKED.match(head)
            if found is None or len(values(found[3], b"host")) != 1 or len(values(found[3], b"x-forwarded-for")) != 1:
                complaints.append(head)
                return
            fields = found[3]
            lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
            if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
                complaints.append(head)
            if values(fields, b"x-forwarded-for") != [b"127.0.0.1"]:
                complaints.append(head)
            if codings:
                while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                    if not (await reader.readexactly(size + 2)).endswith(b"\r\n"):
                        complaints.append(head)
                await reader.readexactly(2)
            elif lengths:
                await reader.readexactly(int(lengths[0]))
            served += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    proxy = await proxies(flow(await serve(handler)))
    answered = 0

    async def one(random_: random.Random) -> None:
        nonlocal answered
        row = b"".join(spoil(random_, random_.choice(REQUESTS)) for _ in range(random_.randint(1, 3)))
        reader, writer = await proxy.connect()
        try:
            for piece in in_pieces(random_, row):
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
            got = await read_all(reader)
        except ConnectionError:
            return
        finally:
            writer.close()
        if b"HEAD " not in row:
            for status, _body, whole in responses(got):
                assert whole, (row, got)
                answered += status == 200

    await each(TIMES or FEW, TIMES, one)
    assert complaints == []
    assert 0 < answered <= served
    await nothing_is_left(proxy)


async def test_no_part_of_a_flows_answer_is_taken_for_another(proxies: Any, serve: Any, flow: Any) -> None:
    """Each client asks for a spoilt answer and then for a good one, on a connection of its own to the proxy."""
    prepared: dict[bytes, tuple[bytes, bool]] = {}

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            if target.startswith(b"/good"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
                continue
            raw, ends = prepared[target]
            writer.write(raw)
            await writer.drain()
            if ends:
                return

    proxy = await proxies(flow(await serve(handler)))
    good = 0

    async def one(random_: random.Random) -> None:
        nonlocal good
        name = b"/%d" % random_.getrandbits(60)
        # One that leaves its client waiting for ever is the client's to give up; here the flow ends it.
        prepared[name] = (spoil(random_, random_.choice(RESPONSES)), True)
        reader, writer = await proxy.connect()
        try:
            writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (name, HOST))
            writer.write(b"GET /good%b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (name, HOST))
            got = await read_all(reader)
        finally:
            writer.close()
        found = [answer for answer in responses(got) if answer[0] >= 200]
        assert 1 <= len(found) <= 2, (prepared[name], got)
        if len(found) == 2:
            good += 1
            assert found[0][2] and found[1] == (200, b"/good" + name, True), (prepared[name], got)

    await each(TIMES or FEW, TIMES + 1, one)
    assert good > 0
    await nothing_is_left(proxy)


async def test_a_connection_on_which_more_came_than_was_asked_for_serves_nobody_else(
    proxies: Any, serve: Any, flow: Any
) -> None:
    """Here the flow keeps its connection: what it says too much must not wait in it for the next client."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while True:
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            number += 1
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)
            random_ = random.Random(target)
            extra = random_.choice((b"", b"", b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
            # In one write: of what comes later nobody could tell that it isn't the next answer.
            writer.write(answer + extra)

    proxy = await proxies(flow(await serve(handler)))

    async def one(random_: random.Random) -> None:
        reader, writer = await proxy.connect()
        try:
            for _ in range(4):
                name = b"/%d" % random_.getrandbits(60)
                writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (name, HOST))
                async with asyncio.timeout(DEADLINE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readexactly(int(values(head, b"content-length")[0]))
                assert (head[9:12], body) == (b"200", name) or head.startswith(b"HTTP/1.1 502 "), (head, body)
        finally:
            writer.close()

    await each(TIMES or FEW, TIMES + 2, one)
    await nothing_is_left(proxy)


async def nothing_is_left(proxy: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while proxy.server.connections or proxy.flow.held:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
