"""Does memory grow? The service's resident size over a mixed load: flows that come, talk and go, clients that come and go.

Ten minutes (`--quick`: one). The slope is a least-squares line over the second half, when caches are warm.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

from benchmarks.client import Client, connected
from benchmarks.flows import IMAGE, EchoFlow, all_heard
from benchmarks.rows import Row, row
from benchmarks.server import Served, serving

MINUTES = 10
WORKERS = 8
SUBSCRIBERS = 4
MESSAGES = 20
SAMPLE_SECONDS = 1.0
MIB = 2**20


@dataclass
class Counts:
    flows: int = 0
    messages: int = 0
    clients: int = 0
    samples: list[tuple[float, int]] = field(default_factory=list)


async def one_flow(client: Client, counts: Counts) -> None:
    """A flow's whole life, with its socket connected and messages both ways."""
    info = await client.call("create_container", image=IMAGE, command=["sleep"], environment={"TOKEN": "s3cret" * 4})
    id = info["id"]
    await client.call("start_container", container_id=id)
    transport, _ = await asyncio.get_running_loop().create_unix_connection(EchoFlow, info["socket_path"])
    try:
        await all_heard(client, [id])
        for number in range(MESSAGES):
            transport.write(b'{"type":"message","body":{"news":%d}}\n' % number)
            answer = await client.call(
                "send_message", container_id=id, message={"number": number, "text": "x" * 200}, expect_reply=True
            )
            assert answer["reply"]["number"] == number
            counts.messages += 1
        await client.call("get_status", container_id=id)
        await client.call("stop_container", container_id=id)
        await client.call("delete_container", container_id=id)
    finally:
        transport.close()
    counts.flows += 1


async def worker(url: str, end: float, counts: Counts) -> None:
    async with connected(url) as client:
        while time.monotonic() < end:
            await one_flow(client, counts)


async def subscriber(url: str, end: float, counts: Counts, chance: random.Random) -> None:
    """A client that follows activity for a few seconds and leaves, over either transport, sometimes from the beginning."""
    while time.monotonic() < end:
        async with connected(url, chance.choice(("websocket", "polling"))) as client:
            await client.call("subscribe_activity", **({"after": 0} if chance.random() < 0.1 else {}))
            await asyncio.sleep(chance.uniform(0.5, 5))
            await client.call("list_activity", limit=100)
        counts.clients += 1


async def watch(server: Served, began: float, end: float, counts: Counts) -> None:
    while time.monotonic() < end:
        counts.samples.append((time.monotonic() - began, server.rss()))
        await asyncio.sleep(SAMPLE_SECONDS)


def slope(samples: list[tuple[float, int]]) -> float:
    """MiB a minute over the second half."""
    half = samples[len(samples) // 2 :]
    line = statistics.linear_regression([at for at, _ in half], [size for _, size in half])
    return line.slope * 60 / MIB


async def run(quick: bool) -> list[Row]:
    seconds = 60.0 if quick else MINUTES * 60.0
    # The activity log is kept short, so that the database's own cache is not what is measured.
    settings = {
        "runtime": "memory",
        "runtimes": {"memory": {"kind": "memory"}},
        "activity": {"keep": 5000},
    }
    async with serving("service", settings) as server:
        counts, start = Counts(), server.rss()
        began = time.monotonic()
        end = began + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(server, began, end, counts))
            for _ in range(WORKERS):
                group.create_task(worker(server.url, end, counts))
            for number in range(SUBSCRIBERS):
                group.create_task(subscriber(server.url, end, counts, random.Random(number)))
        await asyncio.sleep(5)  # what was closed last is gone then
        final = server.rss()
    peak = max(size for _, size in counts.samples)
    print(
        f"  {counts.flows} flows lived and went, {counts.messages} messages, {counts.clients} subscribers in {seconds:.0f} s"
    )
    what = f"memory, {seconds / 60:.0f} minutes of mixed load"
    return [
        row(f"{what}: at start", start / MIB, "MiB"),
        row(f"{what}: peak", peak / MIB, "MiB", start / MIB),
        row(f"{what}: at end", final / MIB, "MiB", start / MIB),
        row(f"{what}: slope, second half", slope(counts.samples), "MiB/min"),
    ]
