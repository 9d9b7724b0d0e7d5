"""What a memory flow does: its command's first word.

| command | does |
| --- | --- |
| `sleep` | runs until it is told to end; TERM ends it with 143 |
| `polite` | as `sleep`, TERM ends it with 0 |
| `ignore-term` | only KILL ends it |
| `exit N` | ends at once with code N |
| `die-soon N` | ends with code N after a twentieth of a second |
| `print LINE…` | writes the lines, then as `sleep` |
| `complain LINE…` | as `print`, to its standard error |
| `count` | writes `line 1`, `line 2` … fifty a second |
| `env` | writes its environment as NAME=value, then as `sleep` |
| `serve` | answers each connection to its lowest port with `served` and a newline |
| `echo` | a real client of its channel: answers each message with `{"echo": <body>}`, connects again after a drop |

Each one that stays writes `ready` first. Anything else is a command that does not exist (127).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from flow_manager.util.backoff import exponential
from flow_manager.util.strict_json import JsonRefused, dumps_bytes, loads

STAYS = frozenset({"sleep", "polite", "ignore-term", "print", "complain", "count", "env", "serve", "echo"})
ENDS = frozenset({"exit", "die-soon"})
DIES_AFTER = 0.05
# A channel's line has at most 1 MiB (wire contract, section 7); the newline comes on top.
LINE_LIMIT = 1024 * 1024 + 1
COUNT_EVERY = 0.02
FIRST_RETRY, LAST_RETRY = 0.02, 1.0


class Inside(Protocol):
    """A program's view of the flow that it runs in."""

    @property
    def channel(self) -> Path | None: ...
    def environment(self) -> dict[str, str]: ...
    @property
    def port(self) -> int | None: ...
    async def thawed(self) -> None:
        """At once, or when a pause is over."""
        ...

    def write(self, line: str) -> None: ...


async def serve(inside: Inside) -> None:
    """Until cancelled."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await inside.thawed()
        writer.write(b"served\n")
        writer.close()

    if inside.port is None:
        return
    # Not started here: a start that is cancelled while it waits would leave its socket open.
    server = await asyncio.start_server(answer, "127.0.0.1", inside.port, start_serving=False)
    try:
        await server.start_serving()
        inside.write("ready")
        await asyncio.Event().wait()
    finally:
        server.close()


async def count(inside: Inside) -> None:
    """Until cancelled."""
    inside.write("ready")
    for number in itertools.count(1):
        await inside.thawed()
        inside.write(f"line {number}")
        await asyncio.sleep(COUNT_EVERY)


async def echo(inside: Inside) -> None:
    """Until cancelled."""
    told = inside.environment()
    if inside.channel is None and "FLOW_URL" not in told:
        return
    inside.write("ready")
    while True:
        for delay in exponential(FIRST_RETRY, maximum=LAST_RETRY):
            try:
                reader, writer = await _connect(inside.channel, told)
                break
            except OSError:
                await asyncio.sleep(delay)
        try:
            await _talk(inside, reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # the manager closed, or sent what is no line: connect again, as a flow should
        finally:
            # Not `close`: what the manager never reads would keep the connection open after the flow's end.
            writer.transport.abort()
        await asyncio.sleep(FIRST_RETRY)  # a newer connection took over, say: never a busy loop


async def _connect(channel: Path | None, told: Mapping[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if channel is not None:
        return await asyncio.open_unix_connection(str(channel), limit=LINE_LIMIT)
    url = urlsplit(told["FLOW_URL"])
    authority = base64.b64decode(told["FLOW_CA"]) if "FLOW_CA" in told else None
    context = ssl.create_default_context(cadata=authority)
    return await asyncio.open_connection(url.hostname, url.port, ssl=context, limit=LINE_LIMIT)


async def _talk(inside: Inside, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    told = inside.environment()
    hello: dict[str, Any] = {"type": "hello", "contract": 1, "acks": True}
    if inside.channel is None:
        hello |= {"flow_id": told["FLOW_ID"], "token": told["FLOW_TOKEN"]}
    writer.write(dumps_bytes(hello) + b"\n")
    while line := await reader.readline():
        await inside.thawed()
        try:
            frame = loads(line)
        except JsonRefused:
            continue
        if answer := _answer(frame):
            writer.write(answer)
            await writer.drain()


def _answer(frame: Any) -> bytes:
    match frame:
        case {"type": "message", "id": id, "body": body}:
            ack = dumps_bytes({"type": "ack", "to": id})
            reply = dumps_bytes({"type": "reply", "to": id, "body": {"echo": body}})
            return ack + b"\n" + reply + b"\n"
        case {"type": "ping"}:
            return b'{"type":"pong"}\n'
        case _:
            return b""


BACKGROUND: dict[str, Callable[[Inside], Awaitable[None]]] = {"serve": serve, "echo": echo, "count": count}
