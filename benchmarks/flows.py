"""500 flows talking at once: messages with a reply, from a Socket.IO client through the service to the flow and back.

The flows are the `memory` runtime's, and what talks for them are real connections to their sockets, from a process of its
own, as flows in containers have. The floor is a bare python-socketio server that answers the same events itself. The load
comes from a Python client, which is as slow as the server: so the server's own CPU per message is the figure to compare.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import Client, many_connected
from benchmarks.rows import Row, median, percentile, row
from benchmarks.server import Served, serving

FLOWS = 500
CLIENTS = 8
BODY = {"question": "how are you", "number": 42, "padding": "x" * 100}
CREATE_AT_A_TIME = 16
IMAGE = "memory"  # no program runs: what talks for the flow is ours
Send = Callable[[Client, str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Round:
    rate: float
    p99: float  # ms
    cpu: float  # µs of the server a message


class EchoFlow(asyncio.Protocol):
    """The least that a flow can be: answers each message with its body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            frame = json.loads(line)
            if frame.get("type") == "message":
                reply = {"type": "reply", "to": frame["id"], "body": frame["body"]}
                self._transport.write(json.dumps(reply).encode() + b"\n")


async def talk_for(paths: Sequence[str]) -> None:
    """The flows' process: connect to every socket, answer until standard input ends."""
    loop = asyncio.get_running_loop()
    for path in paths:
        await loop.create_unix_connection(EchoFlow, path)
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def talking(paths: Sequence[str]) -> AsyncIterator[None]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.flows",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(list(paths)).encode() + b"\n")
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"READY\n"
        yield
    finally:
        child.stdin.close()
        await child.wait()


async def create_flows(client: Client, number: int) -> dict[str, str]:
    """Started flows of the memory runtime: id → path of the socket."""
    limit = asyncio.Semaphore(CREATE_AT_A_TIME)

    async def one() -> tuple[str, str]:
        async with limit:
            info = await client.call("create_container", image=IMAGE, command=["sleep"], start=True)
            return info["id"], info["socket_path"]

    return dict(await asyncio.gather(*(one() for _ in range(number))))


async def all_heard(client: Client, ids: Sequence[str]) -> None:
    """Wait until the service has seen every flow connect."""
    deadline = time.monotonic() + 30
    for id in ids:
        while not (await client.call("get_status", container_id=id))["socket_connected"]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the flow {id} did not connect")
            await asyncio.sleep(0.05)


async def one_round(server: Served, clients: Sequence[Client], ids: Sequence[str], send: Send, seconds: float) -> Round:
    """Every flow has one message under way all the time, for `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def talk(client: Client, id: str) -> None:
        while (started := time.perf_counter()) < end:
            await send(client, id)
            times.append((time.perf_counter() - started) * 1000)

    cpu, began = server.cpu(), time.perf_counter()
    await asyncio.gather(*(talk(clients[number % len(clients)], id) for number, id in enumerate(ids)))
    took = time.perf_counter() - began
    return Round(len(times) / took, percentile(times, 0.99), (server.cpu() - cpu) / len(times) * 1e6)


async def to_flow(client: Client, id: str) -> object:
    answer = await client.call("send_message", container_id=id, message=BODY, expect_reply=True)
    assert answer["reply"] == BODY, answer
    return answer


async def to_echo(client: Client, id: str) -> object:
    return await client.call("send_message", container_id=id, message=BODY, expect_reply=True)


async def run(quick: bool) -> list[Row]:
    seconds, rounds = (2.0, 2) if quick else (8.0, 5)
    settings = {"runtime": "memory", "runtimes": {"memory": {"kind": "memory"}}}
    async with (
        serving("service", settings) as service,
        serving("echo") as echo,
        many_connected(service.url, CLIENTS) as clients,
        many_connected(echo.url, CLIENTS) as echo_clients,
    ):
        flows = await create_flows(clients[0], FLOWS)
        async with talking(list(flows.values())):
            ids = list(flows)
            await all_heard(clients[0], ids)
            ours: list[Round] = []
            floor: list[Round] = []
            for _ in range(rounds):
                ours.append(await one_round(service, clients, ids, to_flow, seconds))
                floor.append(await one_round(echo, echo_clients, ids, to_echo, seconds))
    who = f"{FLOWS} flows at once"
    return [
        row(f"{who}, messages with reply", median([r.rate for r in ours]), "msg/s", median([r.rate for r in floor])),
        row(f"{who}, p99", median([r.p99 for r in ours]), "ms", median([r.p99 for r in floor])),
        row(f"{who}, service's CPU a message", median([r.cpu for r in ours]), "µs", median([r.cpu for r in floor])),
    ]


if __name__ == "__main__":
    asyncio.run(talk_for(json.loads(sys.stdin.readline())))
