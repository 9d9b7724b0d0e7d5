"""The wake proxy's ready path against the same upstream direct and against nginx's `proxy_pass`, in one run.

Proxies and upstream are processes of their own, one worker each; CPU time is read from outside. Repeats are interleaved, so
that a noisy machine disturbs all alike; figures are medians. The upstream is nginx serving a file, the load is wrk, which
asks the same again and again, as a client of an API does: heads that repeat are read once. Where either is missing, programs
of ours stand in, and what can't be compared is left out with a word.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import nginx
from benchmarks.http_load import Load, has_wrk, load
from benchmarks.rows import Row, median, row

HOST = "web.localhost"
FILES = {"small": 128, "large": 64 * 1024}
START_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the file; `cpu` is None for the direct one."""

    name: str
    port: int
    cpu: Callable[[], float] | None


@dataclass(frozen=True, slots=True)
class Figures:
    rate: float
    p50: float
    p99: float
    cpu: float


async def run(quick: bool) -> list[Row]:
    repeats, seconds = (1, 1.0) if quick else (5, 3.0)
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        ways = await _ways(stack)
        for path, size, connections in (("small", "128 B", 64), ("large", "64 KiB", 64), ("small", "128 B", 1)):
            figures = await _measure(ways, f"/{path}", connections, repeats, seconds)
            rows += _rows(figures, f"{size}, {connections} connection{'s' if connections > 1 else ''}")
    return rows


async def _ways(stack: AsyncExitStack) -> list[Way]:
    if not has_wrk():
        print("  wrk isn't installed: the load is made by Python, which limits what can be reached", file=sys.stderr)
    if nginx.has_nginx():
        upstream = await stack.enter_async_context(nginx.static(FILES))
        port = upstream.port
        other = await stack.enter_async_context(nginx.proxying(port))
        compared = [Way("nginx", other.port, other.cpu)]
    else:
        print("  nginx isn't installed: no comparison with it; a Python server is the upstream", file=sys.stderr)
        port, _ = await stack.enter_async_context(_child("files", 0))
        compared = []
    ours, process = await stack.enter_async_context(_child("proxy", port))
    return [Way("direct", port, None), *compared, Way("ours", ours, lambda: _cpu(process))]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _measure(ways: list[Way], path: str, connections: int, repeats: int, seconds: float) -> dict[str, Figures]:
    got: dict[str, list[tuple[Load, float]]] = {way.name: [] for way in ways}
    for way in ways:
        await load(way.port, HOST, path, connections=connections, seconds=0.5)  # warm
    for _ in range(repeats):
        for way in ways:
            before = way.cpu() if way.cpu is not None else 0.0
            result = await load(way.port, HOST, path, connections=connections, seconds=seconds)
            got[way.name].append((result, (way.cpu() if way.cpu is not None else 0.0) - before))
    return {
        name: Figures(
            median([one.rate for one, _ in results]),
            median([one.p50 for one, _ in results]),
            median([one.p99 for one, _ in results]),
            median([cpu / one.count for one, cpu in results]),
        )
        for name, results in got.items()
    }


def _rows(figures: dict[str, Figures], what: str) -> list[Row]:
    ours, direct, other = figures["ours"], figures["direct"], figures.get("nginx")
    rows = [
        row(f"ready path, {what}: requests (floor: direct)", ours.rate, "req/s", direct.rate),
        row(f"ready path, {what}: p50 (floor: direct)", ours.p50 * 1e3, "ms", direct.p50 * 1e3),
        row(f"ready path, {what}: p99 (floor: direct)", ours.p99 * 1e3, "ms", direct.p99 * 1e3),
    ]
    if other is not None:
        rows += [
            row(f"ready path, {what}: requests (floor: nginx proxy_pass)", ours.rate, "req/s", other.rate),
            row(f"ready path, {what}: p50 (floor: nginx proxy_pass)", ours.p50 * 1e3, "ms", other.p50 * 1e3),
            row(f"ready path, {what}: p99 (floor: nginx proxy_pass)", ours.p99 * 1e3, "ms", other.p99 * 1e3),
            row(f"ready path, {what}: CPU a request (floor: nginx)", ours.cpu * 1e6, "µs", other.cpu * 1e6),
        ]
    else:
        rows.append(row(f"ready path, {what}: CPU a request", ours.cpu * 1e6, "µs"))
    return rows


# --- the children -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _child(kind: str, upstream: int) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Its port and process; it ends with its standard input, so also when this process dies."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.proxy", kind, str(upstream)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), START_SECONDS)
        if not line.startswith(b"READY "):
            raise RuntimeError(f"the {kind} under test did not start (it said {line!r})")
        yield int(line.split()[1]), psutil.Process(child.pid)
    finally:
        child.stdin.close()
        await child.wait()


class _Lease:
    __slots__ = ("_flow",)

    def __init__(self, flow: _ReadyFlow) -> None:
        self._flow = flow

    def release(self) -> None:
        self._flow.uses -= 1

    def touch(self) -> None:
        pass


class _ReadyFlow:
    """A flow that is ready, at a port of this machine."""

    id, name, tenant, state, hosts, policy, last_ready = "bench", "web", "default", "ready", (), None, None

    def __init__(self, port: int) -> None:
        self.upstream = ("127.0.0.1", port)
        self.uses = 0

    def use(self, kind: str, holder: str) -> _Lease:
        self.uses += 1
        return _Lease(self)

    def ready_now(self) -> bool:
        return True

    def retry_after(self) -> int:
        return 1


class _Table:
    generation = 1

    def __init__(self, flow: _ReadyFlow) -> None:
        self._flow = flow

    def watchers(self) -> list[_ReadyFlow]:
        return [self._flow]

    def watcher(self, flow_id: str) -> _ReadyFlow | None:
        return self._flow if flow_id == self._flow.id else None


async def _proxy(upstream: int) -> None:
    from flow_manager.observability.system_log import SystemLogger
    from flow_manager.proxy.server import ProxyServer
    from flow_manager.settings.models import Settings
    from flow_manager.util.clock import SystemClock
    from flow_manager.util.gc_tuning import tune_gc

    with tempfile.TemporaryDirectory(prefix="fm-bench-", dir="/tmp") as folder:
        settings = Settings(state_dir=Path(folder), sockets_dir=Path(folder) / "s", proxy_port=0)
        log = SystemLogger(level="ERROR")
        server = ProxyServer(settings, _Table(_ReadyFlow(upstream)), log, SystemClock())  # type: ignore[arg-type]
        await server.open()
        tune_gc()
        print("READY", server.port, flush=True)
        await _until_parent_leaves()
        await server.close()


class _Files(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.answers = {
            name.encode(): b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size)
            for name, size in FILES.items()
        }

    def data_received(self, data: bytes) -> None:
        # One request a read: the load waits for each answer.
        self.transport.write(self.answers[data.split(b" ", 2)[1].lstrip(b"/")])


async def _files(_upstream: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Files, "127.0.0.1", 0, backlog=1024)
    print("READY", server.sockets[0].getsockname()[1], flush=True)
    await _until_parent_leaves()
    server.close()


async def _until_parent_leaves() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    if len(sys.argv) == 1:
        from rich.console import Console

        from benchmarks.rows import show

        show(asyncio.run(run(quick=False)), Console())
        return
    what = {"proxy": _proxy, "files": _files}[sys.argv[1]](int(sys.argv[2]))
    try:
        import uvloop
    except ImportError:
        asyncio.run(what)
    else:
        uvloop.run(what)


if __name__ == "__main__":
    main()
