"""HTTP load: wrk where it is installed, else a client here (whose own CPU then limits what can be reached)."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from dataclasses import dataclass

from benchmarks.rows import percentile

_LATENCY = re.compile(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s)$", re.MULTILINE)
_TOTAL = re.compile(r"^\s+(\d+) requests in ([0-9.]+)(ms|s|m),", re.MULTILINE)
_WRONG = re.compile(r"^\s+(Non-2xx or 3xx responses|Socket errors): (.*)$", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that were answered, a second; latencies in seconds."""

    count: int
    rate: float
    p50: float
    p99: float


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


async def load(port: int, host: str, path: str, *, connections: int, seconds: float) -> Load:
    """:raises RuntimeError: a request failed, so that the figures would be those of errors."""
    if has_wrk():
        return await _wrk(port, host, path, connections, seconds)
    return await _here(port, host, path, connections, seconds)


async def _wrk(port: int, host: str, path: str, connections: int, seconds: float) -> Load:
    whole = max(1, round(seconds))  # wrk counts in whole seconds
    child = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--latency", "-H", f"Host: {host}"),
        f"http://127.0.0.1:{port}{path}",
        stdout=asyncio.subprocess.PIPE,
    )
    said = (await child.communicate())[0].decode()
    wrong, total = _WRONG.search(said), _TOTAL.search(said)
    if wrong is not None or total is None:
        raise RuntimeError(f"the load on {host}:{port} failed: {said}")
    latency = {share: float(value) * _SECONDS[unit] for share, value, unit in _LATENCY.findall(said)}
    count = int(total[1])
    return Load(count, count / (float(total[2]) * _SECONDS[total[3]]), latency["50"], latency["99"])


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.request = request
        self.until = until
        self.latencies = latencies
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = b""
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.left:
            self.buffer += data
            head, end, body = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                self.ended.set_exception(RuntimeError(f"the load failed: {head!r}"))
                self.transport.abort()
                return
            self.left = int(length[1])
            self.buffer, data = b"", body
        self.left -= len(data)
        if self.left <= 0:
            now = time.perf_counter()
            self.latencies.append(now - self.asked)
            if now < self.until:
                self.ask()
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def _here(port: int, host: str, path: str, connections: int, seconds: float) -> Load:
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    latencies: list[float] = []
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: _Client(request, began + seconds, latencies), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.ended for client in clients))
    took = time.perf_counter() - began
    return Load(len(latencies), len(latencies) / took, percentile(latencies, 0.5), percentile(latencies, 0.99))
