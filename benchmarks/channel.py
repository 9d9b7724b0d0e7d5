"""The channel: messages through SocketCommunicationHandler against a bare asyncio Unix-socket Protocol with orjson.

The floor does the least that the same exchange can be done with: lines split, orjson, a dictionary of futures; no limits, no
time-outs, no checks. Both run in this process, in turns; what talks for the flows is a process of its own, so the CPU time
of this process is the server's alone, and is the figure to compare.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from rich.console import Console

from benchmarks.rows import Row, median, row, show
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import SystemClock
from flow_manager.util.ids import new_flow_id

FLOWS = 500
BODY = {"question": "how are you", "number": 42, "padding": "x" * 100}
# The benchmark is about cost, not about the allowance of one flow.
SETTINGS = ChannelSettings(messages_per_second=1e9)
Ask = Callable[[int, dict[str, Any]], Awaitable[Any]]


# --- what talks for the flows: a process of its own -------------------------------------------------------------------


class Talker(asyncio.Protocol):
    """Answers each message with its body; asked to `go`, sends so many messages, each after the last one's ack."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""
        self._left = 0
        self._asked = b""
        self._line = orjson.dumps({"type": "message", "id": "from-flow-1", "body": BODY}) + b"\n"

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._one(line)

    def _one(self, line: bytes) -> None:
        if line.startswith(b'{"type":"ack"'):
            self._left -= 1
            if self._left:
                self._transport.write(self._line)
            else:
                self._transport.write(b'{"type":"reply","to":"%b","body":{}}\n' % self._asked)
            return
        # Cut, not parsed: the less this process does, the less it is the limit.
        message_id = line[24 : line.index(b'"', 24)]
        body = line[line.index(b'"body":') + 7 : -1]
        if body.startswith(b'{"go":'):
            self._left, self._asked = int(body[6:-1]), message_id
            self._transport.write(self._line)
        else:
            self._transport.write(b'{"type":"reply","to":"%b","body":%b}\n' % (message_id, body))


async def talk_for(paths: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    for path in paths:
        await loop.create_unix_connection(Talker, path)
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- the floor --------------------------------------------------------------------------------------------------------


class Bare(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._count = 0
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            frame = orjson.loads(line)
            if frame["type"] == "reply":
                self._waiting.pop(frame["to"]).set_result(frame["body"])
            else:
                self._transport.write(orjson.dumps({"type": "ack", "to": frame["id"]}) + b"\n")

    async def ask(self, body: dict[str, Any]) -> Any:
        self._count += 1
        message_id = f"m-{self._count}"
        future = self._waiting[message_id] = self._loop.create_future()
        self._transport.write(orjson.dumps({"type": "message", "id": message_id, "body": body}) + b"\n")
        return await future


class Silent:
    """A listener that does nothing with what it hears."""

    def flow_connected(self, flow_id: str) -> None: ...
    def flow_disconnected(self, flow_id: str) -> None: ...
    def flow_message(self, flow_id: str, body: Any) -> None: ...
    def flow_actor_event(self, flow_id: str, actor: str, event: str, details: dict[str, Any]) -> None: ...
    def flow_ready(self, flow_id: str) -> None: ...
    def flow_busy(self, flow_id: str, seconds: float, reason: str | None) -> None: ...
    def flow_idle(self, flow_id: str) -> None: ...
    def flow_bad_frame(self, flow_id: str, reason: str, count: int) -> None: ...


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    rate: float  # messages a second
    wall: float  # µs a message
    cpu: float  # µs of this process a message


async def asked(ask: Ask, flows: int, each: int) -> Round:
    """Every flow is asked `each` times, one question under way at a time."""

    async def talk(number: int) -> None:
        for _ in range(each):
            await ask(number, BODY)

    return await _measured([talk(number) for number in range(flows)], flows * each)


async def told(ask: Ask, flows: int, each: int) -> Round:
    """Every flow sends `each` messages of its own, one under way at a time."""
    return await _measured([ask(number, {"go": each}) for number in range(flows)], flows * each)


async def _measured(work: Sequence[Awaitable[Any]], messages: int) -> Round:
    gc.collect()
    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*work)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return Round(messages / took, took / messages * 1e6, used / messages * 1e6)


async def _start_talker(paths: Sequence[Path]) -> subprocess.Popen[bytes]:
    talker = subprocess.Popen(  # noqa: ASYNC220 (before anything is measured)
        [sys.executable, "-m", "benchmarks.channel", "--talk"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert talker.stdin is not None and talker.stdout is not None
    talker.stdin.write(orjson.dumps([str(path) for path in paths]) + b"\n")
    talker.stdin.flush()
    assert await asyncio.wait_for(asyncio.to_thread(talker.stdout.readline), 60) == b"READY\n"
    return talker


def _stop_talker(talker: subprocess.Popen[bytes]) -> None:
    assert talker.stdin is not None and talker.stdout is not None
    talker.stdin.close()
    talker.stdout.close()
    talker.wait()


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def _measure(quick: bool, folder: Path) -> list[Row]:
    # Many short rounds: on a machine that others use, a few long ones measure who was on it meanwhile.
    rounds, alone, together = (7, 2_000, 40) if quick else (25, 4_000, 40)
    loop = asyncio.get_running_loop()
    talkers: list[subprocess.Popen[bytes]] = []
    handler = SocketCommunicationHandler(folder / "flows", SETTINGS, Silent(), SystemClock())
    bare: list[Bare] = []

    def one_more() -> Bare:
        bare.append(Bare())
        return bare[-1]

    server = await loop.create_unix_server(one_more, folder / "bare", backlog=FLOWS)
    await handler.open()
    try:
        flows = [new_flow_id() for _ in range(FLOWS)]
        before = _resident()
        talkers.append(await _start_talker([folder / "bare"] * FLOWS))
        floor_bytes = (_resident() - before) / FLOWS
        paths = [await handler.setup_socket(flow_id) for flow_id in flows]
        before = _resident()
        talkers.append(await _start_talker(paths))
        deadline = time.monotonic() + 30
        while not all(map(handler.is_socket_connected, flows)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        our_bytes = (_resident() - before) / FLOWS

        def ask_ours(number: int, body: dict[str, Any]) -> Awaitable[Any]:
            return handler.send_message(flows[number], body, expect_reply=True)

        def ask_bare(number: int, body: dict[str, Any]) -> Awaitable[Any]:
            return bare[number].ask(body)

        rows = []
        for measure, what in ((asked, "message and reply"), (told, "a flow's own message and its ack")):
            for count, each in ((1, alone), (FLOWS, together)):
                who = f"channel, {count} flow{'s' if count > 1 else ''}, {what}"
                rows += await compared(who, measure, count, each, ask_ours, ask_bare, rounds)
        rows.append(row("channel, an idle connection", our_bytes / 1024, "KB", floor_bytes / 1024))
        return rows
    finally:
        for talker in talkers:
            _stop_talker(talker)
        server.close()
        await server.wait_closed()
        await handler.close()


async def compared(
    who: str,
    measure: Callable[[Ask, int, int], Awaitable[Round]],
    count: int,
    each: int,
    ask_ours: Ask,
    ask_bare: Ask,
    rounds: int,
) -> list[Row]:
    """Ours beside the floor, in turns, and each first as often: what the machine does meanwhile hits both."""
    ours, floor = [], []
    for turn in range(rounds):
        for ask, results in ((ask_ours, ours), (ask_bare, floor))[:: 1 if turn % 2 else -1]:
            results.append(await measure(ask, count, each))
    return [
        _row(f"{who}: server's CPU", [r.cpu for r in ours], "µs", [r.cpu for r in floor]),
        _row(f"{who}: time", [r.wall for r in ours], "µs", [r.wall for r in floor])
        if count == 1
        else _row(f"{who}: rate", [r.rate for r in ours], "msg/s", [r.rate for r in floor]),
    ]


def _row(name: str, ours: list[float], unit: str, floor: list[float]) -> Row:
    return row(name, median(ours), unit, median(floor))


def _run(main: Awaitable[Any]) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)  # type: ignore[arg-type]
    return uvloop.run(main)  # type: ignore[arg-type]


def _allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(quick: bool) -> list[Row]:
    _allow_many_files()
    with tempfile.TemporaryDirectory() as folder:
        rows: list[Row] = _run(_measure(quick, Path(folder)))
    return rows


def main() -> None:
    if "--talk" in sys.argv:
        _allow_many_files()
        _run(talk_for(orjson.loads(sys.stdin.buffer.readline())))
    else:
        show(run(quick="--quick" in sys.argv), Console())


if __name__ == "__main__":
    main()
