"""The servers under test, each in a child process, so that its CPU and memory are its own and can be read from outside.

`serving("service", {...settings...})` is the whole service; `serving("echo")` is its floor: a bare python-socketio server
on aiohttp that answers every event with what it got. Both run on uvloop where that is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 30
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Served:
    """One running server. `cpu()` are the seconds it has used so far, `rss()` the bytes it holds."""

    url: str
    process: psutil.Process
    proxy_url: str = ""

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        return int(self.process.memory_info().rss)


@asynccontextmanager
async def serving(kind: str, settings: dict[str, Any] | None = None) -> AsyncIterator[Served]:
    """Start a server, wait until it listens, and end it (it also ends by itself when this process dies)."""
    # Not TMPDIR: a socket's path has room for 76 bytes of folder.
    folder = Path(tempfile.mkdtemp(prefix="fm-bench-", dir="/tmp"))
    given = {
        "port": 0,
        "proxy_port": 0,
        "state_dir": str(folder / "state"),
        "sockets_dir": str(folder / "s"),
        "log": {"level": "ERROR"},
        "adopt": False,
        **(settings or {}),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.server",
        kind,
        json.dumps(given),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), START_SECONDS)
        if not line.startswith(b"READY "):
            raise RuntimeError(f"the {kind} under test did not start (it said {line!r})")
        url, *more = line.decode().split()[1:]
        yield Served(url, psutil.Process(child.pid), *more)
    finally:
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), STOP_SECONDS)
        except TimeoutError:
            child.kill()
            await child.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _until_parent_leaves() -> None:
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()

    def readable() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            gone.set()

    loop.add_reader(0, readable)
    await gone.wait()


async def _service(settings: dict[str, Any]) -> None:
    from flow_manager.app import Service
    from flow_manager.settings.models import Settings

    async with Service(Settings.model_validate_json(json.dumps(settings))) as service:
        print("READY", service.url, service.proxy_url, flush=True)
        await _until_parent_leaves()


async def _echo(_settings: dict[str, Any]) -> None:
    import socketio
    from aiohttp import web

    server = socketio.AsyncServer(async_mode="aiohttp")

    async def echo(_event: str, _sid: str, data: Any) -> dict[str, Any]:
        return {"error": False, "data": data}

    server.on("*", handler=echo)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print("READY", f"http://{host}:{port}", flush=True)
    await _until_parent_leaves()
    await server.shutdown()
    await runner.cleanup()


def main() -> None:
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    what = {"service": _service, "echo": _echo}[kind]
    try:
        import uvloop
    except ImportError:
        asyncio.run(what(settings))
    else:
        uvloop.run(what(settings))


if __name__ == "__main__":
    main()
