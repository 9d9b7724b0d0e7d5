"""The gateway: acknowledged events against a bare python-socketio echo, and fan-out of activity against `emit` and a bare Protocol.

Each server is a process of its own, whose CPU time is read from outside; the load is here. Repeats are interleaved, so that
a noisy machine disturbs all alike; figures are medians.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.client import connected
from benchmarks.fanout import publishing
from benchmarks.rows import Row, median, percentile, row
from benchmarks.server import Served, serving
from benchmarks.websocket_load import Caller, Listener, open_all

CLIENTS = 64
SUBSCRIBERS = 1000
SERVICE = {"runtime": "memory", "runtimes": {"memory": {"kind": "memory"}}}


async def run(quick: bool) -> list[Row]:
    return [*await _acknowledged(quick), *await _fan_out(quick)]


async def _acknowledged(quick: bool) -> list[Row]:
    repeats, seconds = (2, 0.7) if quick else (7, 2.0)
    ours: list[tuple[float, float, float]] = []
    echo: list[tuple[float, float, float]] = []
    async with serving("service", SERVICE) as service, serving("echo") as bare:
        async with connected(service.url) as client:
            flow = (await client.call("create_container", image="memory"))["id"]
        request = b'{"container_id":"' + flow.encode() + b'"}'
        loads = [(ours, service, await _callers(service, request)), (echo, bare, await _callers(bare, request))]
        for _, served, callers in loads:
            await _load(served, callers, 0.5)  # warm
        for _ in range(repeats):
            for results, served, callers in loads:
                results.append(await _load(served, callers, seconds))
        for _, _, callers in loads:
            for caller in callers.clients:
                caller.transport.abort()
    rate, cpu, late = (median([result[index] for result in ours]) for index in range(3))
    echo_rate, echo_cpu, echo_late = (median([result[index] for result in echo]) for index in range(3))
    return [
        row("get_status, acknowledged, 64 clients (floor: bare python-socketio echo)", rate, "events/s", echo_rate),
        row("get_status, server CPU an event", cpu * 1e6, "µs", echo_cpu * 1e6),
        row("get_status, p99 with all 64 clients waiting", late * 1e3, "ms", echo_late * 1e3),
    ]


class _Callers:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.until = 0.0
        self.clients: list[Caller] = []

    def going(self) -> bool:
        return time.perf_counter() < self.until


async def _callers(served: Served, request: bytes) -> _Callers:
    callers = _Callers()
    callers.clients = await open_all(served.url, CLIENTS, lambda: Caller(request, callers.latencies, callers.going))
    await asyncio.sleep(0.2)  # whatever is sent after the connect
    return callers


async def _load(served: Served, callers: _Callers, seconds: float) -> tuple[float, float, float]:
    """Events a second, seconds of the server's CPU an event, 99th percentile of the latency."""
    callers.latencies.clear()
    before, began = served.cpu(), time.perf_counter()
    callers.until = began + seconds
    for caller in callers.clients:
        caller.call()
    for caller in callers.clients:
        await asyncio.wait_for(caller.idle.wait(), seconds + 10)
    took, cpu, count = time.perf_counter() - began, served.cpu() - before, len(callers.latencies)
    return count / took, cpu / count, percentile(callers.latencies, 0.99)


async def _fan_out(quick: bool) -> list[Row]:
    repeats, events = (1, 20) if quick else (5, 50)
    cost: dict[str, list[float]] = {"ours": [], "emit": [], "raw": []}
    subscribe = b'421["subscribe_activity",{}]'
    async with publishing("ours") as ours, publishing("emit") as emit, publishing("raw") as raw:
        crowds: list[tuple[str, Any, list[Listener]]] = [
            (kind, server, await open_all(server.url, SUBSCRIBERS, lambda: Listener(subscribe)))
            for kind, server in (("ours", ours), ("emit", emit), ("raw", raw))
        ]
        for turn in range(repeats + 1):
            for kind, server, crowd in crowds:
                expected = _received(crowd) + events * SUBSCRIBERS
                cpu = await server.publish(events)
                async with asyncio.timeout(10):  # what is sent may still be read; nothing may be missing
                    while _received(crowd) < expected:  # noqa: ASYNC110 - an event per delivery would be the load
                        await asyncio.sleep(0.01)
                if turn:  # the first is for warming up
                    cost[kind].append(cpu / (events * SUBSCRIBERS) * 1e6)
        for _, _, crowd in crowds:
            for listener in crowd:
                listener.transport.abort()
    mine = median(cost["ours"])
    return [
        row("activity to 1,000 subscribers, CPU a delivery (floor: bare Protocol)", mine, "µs", median(cost["raw"])),
        row("activity to 1,000 subscribers, CPU a delivery (floor: sio.emit)", mine, "µs", median(cost["emit"])),
    ]


def _received(crowd: list[Listener]) -> int:
    return sum(listener.received for listener in crowd)


def main() -> None:
    from rich.console import Console

    from benchmarks.rows import show

    show(asyncio.run(run(quick=False)), Console())


if __name__ == "__main__":
    main()
