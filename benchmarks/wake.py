"""From readiness to the first byte: how long a held request still waits once its flow's program listens.

The program tells in its answer when it began to listen, on the monotonic clock that all processes of a machine share, so the
start itself, which is the engine's and the program's own affair, is not in the figure. The floor is the same program, started
without us, and a client that tries to connect every millisecond: nobody can be much earlier.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from benchmarks import engine
from benchmarks.client import Client, connected
from benchmarks.rows import Row, median, percentile, row
from benchmarks.server import Served, serving

HOST = "web.localhost"
# Listens a while after its start, never the same: else each wake would meet the same moment between two attempts.
PROGRAM = """
import os, random, socket, time
time.sleep(random.uniform(0.02, 0.12))
server = socket.create_server(("", int(os.environ["PORT"])))
ready = time.monotonic_ns()
while True:
    client, _ = server.accept()
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        data = client.recv(65536)
        if not data:
            break
        head += data
    else:
        body = b"%d" % ready
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%b" % (len(body), body))
    client.close()
"""
RETRY_SECONDS = 0.001
ANSWER_SECONDS = 60
Once = Callable[[], Awaitable[float]]


async def run(quick: bool) -> list[Row]:
    rows = await _on_processes(60 if quick else 300)
    if engine.engine_script.find() is None and shutil.which("dockerd") is None:
        print("  no Docker engine is here: waking containers is left out", file=sys.stderr)
        return rows
    return rows + await _on_docker(15 if quick else 100)


async def _on_processes(times: int) -> list[Row]:
    flow = {"image": "local", "command": [sys.executable, "-S", "-c", PROGRAM], "ports": {"8000": 0}}
    async with _waking({"runtime": "process"}, flow) as ours:
        took: list[float] = []
        floor: list[float] = []
        for _ in range(times):
            took.append(await ours())
            floor.append(await _without_us())
    return _rows("a process", took, floor)


async def _on_docker(times: int) -> list[Row]:
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(engine.engine())
        await asyncio.to_thread(engine.images.ensure, host, engine.images.PYTHON)
        command = ["python3", "-S", "-c", PROGRAM]
        flow = {"image": engine.images.PYTHON, "command": command, "port": 8000, "environment": {"PORT": "8000"}}
        settings = {"runtime": "docker", "runtimes": {"docker": {"url": host}}}
        ours = await stack.enter_async_context(_waking(settings, flow))
        took = [await ours() for _ in range(times)]
    return _rows("a container", took, None)


@asynccontextmanager
async def _waking(settings: dict[str, Any], flow: dict[str, Any]) -> AsyncIterator[Once]:
    """A sleeping flow behind the whole service; each call of what this gives wakes it once and puts it to sleep again."""
    async with serving("service", settings) as served, connected(served.url) as client:
        made = await client.call(
            "create_container",
            name="web",
            **flow,
            idle={"stop_method": "kill", "idle_timeout": 600, "wake_timeout": 60},
        )
        try:
            yield lambda: _once(served, client, made["id"])
        finally:
            await client.call("delete_container", container_id=made["id"], force=True)


async def _once(served: Served, client: Client, id: str) -> float:
    port = int(served.proxy_url.rpartition(":")[2])
    took = await _ask(await asyncio.open_connection("127.0.0.1", port), cold=True)
    await client.call("sleep_container", container_id=id)
    return took


async def _without_us() -> float:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-c", PROGRAM), env={**os.environ, "PORT": str(port)}
    )
    try:
        while True:
            try:
                streams = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return await _ask(streams, cold=False)
    finally:
        child.kill()
        await child.wait()


async def _ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], *, cold: bool) -> float:
    """Seconds from the program's listening to the first byte here. :raises RuntimeError: it wasn't woken for this."""
    reader, writer = streams
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            first = await reader.read(1)
            arrived = time.monotonic_ns()
            answer = first + await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or (b"x-flow-cold-start: true" in head.lower()) is not cold:
        raise RuntimeError(f"no answer of a flow that was woken for it: {answer[:500]!r}")
    return (arrived - int(body)) / 1e9


def _rows(what: str, took: list[float], floor: list[float] | None) -> list[Row]:
    figures: list[tuple[str, Callable[[list[float]], float]]] = [
        ("p50", median),
        ("p99", lambda values: percentile(values, 0.99)),
    ]
    told = "" if floor is None else " (floor: a connect each ms)"
    return [
        row(
            f"{what} wakes: from listening to the first byte, {name}{told}",
            of(took) * 1e3,
            "ms",
            of(floor) * 1e3 if floor is not None else None,
        )
        for name, of in figures
    ]
