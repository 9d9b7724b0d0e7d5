"""termproxy and its websocket: one shell a container, shared by all who look, that outlives each of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from tests.pve.calls import Call
from tests.pve.cluster import Cluster
from tests.pve.container import Container
from tests.pve.errors import TaskFailed, died, unauthorized
from tests.pve.tasks import Task
from tests.pve.terminal import SCREEN, Terminal

FIRST_PORT, LAST_PORT = 5900, 5999
# proxmox-termproxy takes API tokens only since it came with this version.
TOKENS_SINCE = (9, 1)
# busybox ash asks where the cursor is before each line, and takes the answer for itself.
CURSOR_QUESTION = "\x1b[6n"
CURSOR_ANSWER = re.compile(rb"\x1b\[\d+;\d+R")
# Nobody types a line as long as this; more without a complete frame is no client.
MOST_UNFRAMED = 1 << 20


class BadFrame(Exception):
    """What a client sent is none of the three kinds of frames."""


@dataclass(slots=True)
class Frames:
    """`0:LEN:data`, `1:COLS:ROWS:` and `2`, as they come: in pieces, or several at once."""

    rest: bytes = b""

    def feed(self, data: bytes) -> list[tuple[str, bytes | tuple[int, int]]]:
        """:raises BadFrame:"""
        self.rest += data
        found: list[tuple[str, bytes | tuple[int, int]]] = []
        while self.rest and (frame := self._one()) is not None:
            found.append(frame)
        if len(self.rest) > MOST_UNFRAMED:
            raise BadFrame("too long")
        return found

    def _one(self) -> tuple[str, bytes | tuple[int, int]] | None:
        kind = self.rest[:1]
        if kind == b"2":
            self.rest = self.rest[1:]
            return "ping", b""
        if kind == b"0":
            if not (head := re.match(rb"0:(\d{1,7}):", self.rest)):
                self._must_begin(rb"0(:\d{0,7})?")
                return None
            end = head.end() + int(head[1])
            if len(self.rest) < end:
                return None
            data, self.rest = self.rest[head.end() : end], self.rest[end:]
            return "data", data
        if kind == b"1":
            if not (head := re.match(rb"1:(\d{1,5}):(\d{1,5}):", self.rest)):
                self._must_begin(rb"1(:\d{0,5}(:\d{0,5})?)?")
                return None
            self.rest = self.rest[head.end() :]
            return "size", (int(head[1]), int(head[2]))
        raise BadFrame(f"unknown frame {self.rest[:20]!r}")

    def _must_begin(self, pattern: bytes) -> None:
        if not re.fullmatch(pattern, self.rest):
            raise BadFrame(f"not a frame: {self.rest[:20]!r}")


@dataclass(slots=True)
class Console:
    """A forked termproxy that waits on its port for one connection."""

    node: str
    port: int
    ticket: str
    user: str
    token: bool
    container: Container
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None


class Consoles:
    """The ports of all nodes, and who waits there."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, int], Console] = {}

    def free_port(self, node: str) -> int:
        """:raises ApiError: there are a hundred of them a node."""
        for port in range(FIRST_PORT, LAST_PORT + 1):
            if (node, port) not in self.waiting:
                return port
        raise died(f"unable to find free port ({FIRST_PORT}-{LAST_PORT})")


async def term_proxy(call: Call) -> dict[str, str]:
    cluster = call.cluster
    container = cluster.need(call.node, call.vmid)
    consoles = cluster.consoles
    ticket = cluster.tickets.console(call.who.id, f"/vms/{call.vmid}")
    console = Console(
        call.node, consoles.free_port(call.node), ticket, call.who.id, call.who.token is not None, container
    )
    consoles.waiting[call.node, console.port] = console

    async def body(task: Task) -> None:
        try:
            async with asyncio.timeout(cluster.timing.console_wait):
                await console.connected.wait()
            await console.over.wait()
        except TimeoutError:
            raise TaskFailed("connection timed out") from None
        finally:
            consoles.waiting.pop((console.node, console.port), None)
            console.over.set()
        if console.failure:
            raise TaskFailed(console.failure)

    upid = cluster.fork(call, "vncproxy", body)
    return {"user": console.user, "ticket": ticket, "port": str(console.port), "upid": upid}


async def websocket(call: Call) -> web.StreamResponse:
    cluster, request = call.cluster, call.request
    assert request is not None
    path = f"/vms/{call.vmid}"
    if not cluster.tickets.console_is_good(str(call.params["vncticket"]), call.who.id, path):
        raise unauthorized("permission denied - invalid PVEVNC ticket")
    console = cluster.consoles.waiting.get((call.node, int(call.params["port"])))
    if console is None or console.connected.is_set():
        raise died(f"connect to 'localhost:{call.params['port']}' failed: Connection refused")
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    if "binary" not in [part.strip() for part in offered.split(",")]:
        raise died(f"unsupported websocket-protocol protocol '{offered}'")
    answer = web.WebSocketResponse(protocols=("binary",), max_msg_size=1 << 20)
    await answer.prepare(request)
    console.connected.set()
    cluster.sockets.add(answer)
    try:
        await _serve(cluster, console, answer)
    except BadFrame as bad:
        console.failure = str(bad)
    finally:
        console.over.set()
        cluster.sockets.discard(answer)
        with contextlib.suppress(ConnectionError):
            await answer.close()
    return answer


async def _serve(cluster: Cluster, console: Console, answer: web.WebSocketResponse) -> None:
    line = b""
    while b"\n" not in line:
        message = await answer.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return
        line += message.data.encode() if isinstance(message.data, str) else message.data
    line, _, rest = line.partition(b"\n")
    old = cluster.version < TOKENS_SINCE and console.token
    if old or line.decode(errors="replace") != f"{console.user}:{console.ticket}":
        console.failure = "failed to authenticate: authentication failure"
        return
    await answer.send_bytes(b"OK")
    if not console.container.running:
        # lxc-attach says why, and the session is over.
        await answer.send_bytes(f"lxc-attach: {console.container.vmid}: Failed to get init pid\r\n".encode())
        return
    prompt = f"{CURSOR_QUESTION}# " if cluster.asks_cursor else None
    terminal = await cluster.inside.console(console.container, prompt=prompt)
    # The screen of a shell is drawn again for who comes late; what a program has printed is gone.
    screen = b"" if terminal is console.container.program else terminal.recent[-SCREEN:]
    await _join(terminal, answer, rest, screen, answers_cursor=cluster.asks_cursor)


async def _join(
    terminal: Terminal, answer: web.WebSocketResponse, rest: bytes, screen: bytes, *, answers_cursor: bool
) -> None:
    """Both ways at once, until the client leaves or the session is over."""
    printed: asyncio.Queue[bytes] = asyncio.Queue()
    if screen:
        printed.put_nowait(screen)
    unwatch = terminal.watch(printed.put_nowait)
    works = [
        asyncio.create_task(_print(printed, answer)),
        asyncio.create_task(_type(terminal, answer, rest, answers_cursor)),
        asyncio.create_task(terminal.ended.wait()),
    ]
    try:
        done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        if works[2] in done and not works[0].done():
            while not printed.empty():
                await answer.send_bytes(printed.get_nowait())
    except ConnectionError:
        pass
    finally:
        unwatch()
        for work in works:
            work.cancel()
        await asyncio.wait(works)
    for work in works:
        if not work.cancelled() and isinstance(error := work.exception(), BadFrame):
            raise error


async def _print(printed: asyncio.Queue[bytes], answer: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await answer.send_bytes(await printed.get())


async def _type(terminal: Terminal, answer: web.WebSocketResponse, rest: bytes, answers_cursor: bool) -> None:
    frames = Frames()
    data: bytes | None = rest
    while data is not None:
        for kind, value in frames.feed(data):
            if kind == "size" and isinstance(value, tuple):
                terminal.resize(*value)
            elif kind == "data" and isinstance(value, bytes):
                terminal.write(CURSOR_ANSWER.sub(b"", value) if answers_cursor else value)
        message = await answer.receive()
        match message.type:
            case WSMsgType.TEXT:
                data = message.data.encode()
            case WSMsgType.BINARY:
                data = message.data
            case _:
                data = None
