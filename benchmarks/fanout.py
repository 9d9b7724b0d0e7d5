"""Servers that send one event to every subscriber: ours, python-socketio's `emit`, and a bare Protocol; each its own process.

`publishing(kind)` starts one; `publish(count)` lets it send and gives the seconds of CPU that it took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Between two events, so that each is delivered before the next: what is measured is the single event, not a backlog.
PAUSE = 0.02
SETTLE = 0.3
Publish = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Publishing:
    url: str
    process: asyncio.subprocess.Process

    async def publish(self, count: int) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % count)
        return float(await asyncio.wait_for(self.process.stdout.readline(), 120))


@asynccontextmanager
async def publishing(kind: str) -> AsyncIterator[Publishing]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.fanout",
        kind,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield Publishing(line.decode().strip(), process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


def entry(cursor: int) -> Any:
    from flow_manager.contract.activity import Activity

    return Activity(
        cursor=cursor,
        stream="benchmark",
        type="container_started",
        container_id="abcdefghijkl",
        name="flow-abcdefghijkl",
        actor="local",
        message="flow-abcdefghijkl was started by local",
        details={"state": "running"},
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def _listen(app: Any) -> str:
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _ours() -> tuple[str, Publish]:
    from flow_manager.gateway.server import Gateway
    from flow_manager.observability.system_log import SystemLogger
    from flow_manager.settings.models import Settings
    from flow_manager.store.base import StoredActivity
    from flow_manager.util.clock import SystemClock
    from flow_manager.util.gc_tuning import tune_gc
    from flow_manager.web.routes import build_app

    class Stream:
        stream = "benchmark"
        head = 0

        async def floor(self) -> int:
            return 0

        async def read(self, **_filters: Any) -> list[StoredActivity]:
            return []

    class Manager:
        def __getattr__(self, name: str) -> Any:
            return None

    async def ready() -> None: ...

    settings = Settings(state_dir=Path("/nonexistent"), sockets_dir=Path("/tmp/fm-bench"))
    stream = Stream()
    gateway = Gateway(
        settings,
        Manager(),  # type: ignore[arg-type]
        stream,
        None,  # type: ignore[arg-type]
        lambda principal: {"principal": principal.name},
        SystemLogger(level="ERROR"),
        SystemClock(),
    )
    app = build_app(settings, ready=ready, describe=dict, metrics=gateway.metrics)
    gateway.attach(app)

    async def publish(count: int) -> None:
        for _ in range(count):
            stream.head += 1
            gateway.publish_activity([StoredActivity("default", entry(stream.head))])
            await asyncio.sleep(PAUSE)

    url = await _listen(app)
    tune_gc()
    return url, publish


async def _emit() -> tuple[str, Publish]:
    import socketio
    from aiohttp import web

    server = socketio.AsyncServer(async_mode="aiohttp")

    async def subscribe(sid: str, _data: Any = None) -> str:
        await server.enter_room(sid, "subscribers")
        return "ok"

    server.on("subscribe_activity", handler=subscribe)
    app = web.Application()
    server.attach(app)

    async def publish(count: int) -> None:
        for cursor in range(count):
            await server.emit("activity", entry(cursor + 1).model_dump(mode="json"), room="subscribers")
            await asyncio.sleep(PAUSE)

    return await _listen(app), publish


async def _raw() -> tuple[str, Publish]:
    from flow_manager.gateway.frames import event_frame, websocket_text
    from flow_manager.util.gc_tuning import tune_gc

    transports: set[asyncio.Transport] = set()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.Transport = transport  # type: ignore[assignment]
            transports.add(self.transport)

        def data_received(self, data: bytes) -> None:
            if data.startswith(b"GET "):
                head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                self.transport.write(head + websocket_text(b"40{}") + websocket_text(b"431[]"))

        def connection_lost(self, exc: Exception | None) -> None:
            transports.discard(self.transport)

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)

    async def publish(count: int) -> None:
        for cursor in range(count):
            wire = event_frame("activity", entry(cursor + 1).model_dump_json().encode()).wire
            for transport in transports:
                transport.write(wire)
            await asyncio.sleep(PAUSE)

    tune_gc()
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", publish


async def _serve(kind: str) -> None:
    url, publish = await {"ours": _ours, "emit": _emit, "raw": _raw}[kind]()
    print(url, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        before = time.process_time()
        await publish(int(line))
        await asyncio.sleep(SETTLE)  # what is written last is sent by then
        print(time.process_time() - before, flush=True)


def main() -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(sys.argv[1]))
    else:
        uvloop.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
