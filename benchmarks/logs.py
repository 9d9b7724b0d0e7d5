"""Log lines a second, followed: through the whole service, beside the engine's own stream of the same container.

At each start the container writes its lines as fast as it can. In turns, one of the two sides follows: the engine's raw bytes,
counted and thrown away, or `follow_logs` with a client that reads each line. From the first line to the last.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.client import Client, connected
from benchmarks.engine import engine, remove_networks
from benchmarks.rows import Row, median, row
from benchmarks.server import serving

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import images

LINE = "2026-01-19 INFO request GET /index.html answered with 200 in 12 ms, and so on until here"
LAST = "that was all"
SECONDS = 120.0


async def run(quick: bool) -> list[Row]:
    instance = f"bench-logs-{os.getpid()}"
    settings = {"runtime": "docker", "instance": instance}
    async with engine() as host:
        try:
            docker = {"runtimes": {"docker": {"url": host}}}
            async with serving("service", settings | docker) as service, connected(service.url) as client:
                return await measure(host, client, lines=20_000 if quick else 200_000, rounds=1 if quick else 5)
        finally:
            await remove_networks(host, instance)


async def measure(host: str, client: Client, *, lines: int, rounds: int) -> list[Row]:
    command = ["sh", "-c", f"sleep 0.3; yes '{LINE}' | head -n {lines}; echo {LAST}; sleep 100000"]
    made = await client.call("create_container", image=images.BUSYBOX, command=command)
    ours: list[float] = []
    engines: list[float] = []
    lost: list[float] = []
    try:
        for _ in range(rounds):
            for side in (engines, ours):
                await client.call("start_container", container_id=made["id"])
                if side is engines:
                    side.append(await asyncio.wait_for(follow_engine(host, made["runtime_id"]), SECONDS))
                else:
                    rate, share = await asyncio.wait_for(follow_ours(client, made["id"]), SECONDS)
                    side.append(rate)
                    lost.append(share)
                await client.call("kill_container", container_id=made["id"])
    finally:
        await client.call("delete_container", container_id=made["id"], force=True)
    return [
        row("log lines followed, as fast as they are written", median(ours), "lines/s", median(engines)),
        row("… of which the client was too slow for, and told so", 100 * median(lost), "%"),
    ]


async def follow_engine(host: str, runtime_id: str) -> float:
    connector = aiohttp.UnixConnector(host.removeprefix("unix://"))
    timeout = aiohttp.ClientTimeout(total=None)
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1", "tail": "0"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = f"http://engine/containers/{runtime_id}/logs"
        async with session.get(url, params=params) as response:
            # A busy machine may open this later than the first line: the last one ends it, and what came counts.
            seen, began, end = 0, 0.0, b""
            while LAST.encode() not in end:
                chunk = await response.content.readany()
                began = began or time.perf_counter()
                seen += chunk.count(b"\n")
                end = end[-len(LAST) :] + chunk
    return seen / (time.perf_counter() - began)


async def follow_ours(client: Client, flow: str) -> tuple[float, float]:
    """Lines a second that came, and the share of those that the service left out because this client reads too slowly."""
    over = asyncio.Event()
    seen, lost, began = 0, 0, 0.0

    async def received(event: dict[str, Any]) -> None:
        nonlocal seen, lost, began
        began = began or time.perf_counter()
        seen += len(event["lines"])
        lost += event.get("lost") or 0
        if event["lines"] and event["lines"][-1]["text"] == LAST:
            over.set()

    client.io.on("log_lines", received)
    followed = await client.call("follow_logs", container_id=flow, tail=0)
    await over.wait()
    ended = time.perf_counter()
    await client.call("unfollow_logs", **followed)
    return seen / (ended - began), lost / (seen + lost)
