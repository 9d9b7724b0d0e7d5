"""Commands in a flow through the whole service, beside the engine's raw API for the same command in the same container.

The floor does what nobody can leave out: create the exec, start it and read its output to its end, inspect its exit code.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.client import Client, connected
from benchmarks.engine import engine, images, remove_networks
from benchmarks.raw_engine import RawEngine
from benchmarks.rows import Row, median, percentile, row
from benchmarks.server import serving

COMMAND = ["echo", "hello"]
AT_A_TIME = 8
Once = Callable[[], Awaitable[None]]


async def raw_exec(raw: RawEngine, runtime_id: str) -> None:
    body: dict[str, Any] = {"Cmd": COMMAND, "AttachStdout": True, "AttachStderr": True}
    made = await raw.request("POST", f"/containers/{runtime_id}/exec", body)
    output = await raw.to_the_end("POST", f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
    assert output.endswith(b"hello\n"), output
    while (await raw.request("GET", f"/exec/{made['Id']}/json"))["Running"]:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def our_exec(client: Client, id: str) -> None:
    result = await client.call("exec_container", container_id=id, command=COMMAND)
    assert (result["exit_code"], result["stdout"]) == (0, "hello\n"), result


async def timed(once: Once) -> float:
    began = time.perf_counter()
    await once()
    return (time.perf_counter() - began) * 1000


async def round_trips(ours: Once, floor: Once, repeats: int) -> list[Row]:
    mine: list[float] = []
    its: list[float] = []
    for turn in range(repeats + 1):
        for once, times in ((ours, mine), (floor, its)) if turn % 2 else ((floor, its), (ours, mine)):
            taken = await timed(once)
            if turn:  # the first turn warms caches and is thrown away
                times.append(taken)
    # Turn by turn: what slows both for a while cancels out.
    beyond = median([own - engines for own, engines in zip(mine, its, strict=True)])
    return [
        row("exec, round trip, p50 (floor: the engine's API)", median(mine), "ms", median(its)),
        row("exec, round trip, p99", percentile(mine, 0.99), "ms", percentile(its, 0.99)),
        row("exec, round trip, p50 beyond the engine's", beyond, "ms"),
    ]


async def rate(once: list[Once], seconds: float) -> float:
    end = time.perf_counter() + seconds
    done = 0

    async def worker(one: Once) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await one()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker(one) for one in once))
    return done / (time.perf_counter() - began)


async def run(quick: bool) -> list[Row]:
    instance = f"bench-inside-{os.getpid()}"
    async with engine() as host:
        settings = {"runtime": "docker", "instance": instance, "runtimes": {"docker": {"url": host}}}
        try:
            async with serving("service", settings) as service, connected(service.url) as client:
                return await measure(host, client, quick)
        finally:
            await remove_networks(host, instance)


async def measure(host: str, client: Client, quick: bool) -> list[Row]:
    made = await client.call("create_container", image=images.BUSYBOX, command=["sleep", "100000"], start=True)
    id, runtime_id = str(made["id"]), str(made["runtime_id"])
    raws = [RawEngine(host) for _ in range(AT_A_TIME)]
    try:
        rows = await round_trips(
            lambda: our_exec(client, id), lambda: raw_exec(raws[0], runtime_id), 5 if quick else 60
        )
        mine: list[float] = []
        its: list[float] = []
        for _ in range(2 if quick else 4):
            its.append(await rate([lambda raw=raw: raw_exec(raw, runtime_id) for raw in raws], 1 if quick else 4))
            mine.append(await rate([lambda: our_exec(client, id)] * AT_A_TIME, 1 if quick else 4))
        return [*rows, row(f"exec, {AT_A_TIME} at a time", median(mine), "commands/s", median(its))]
    finally:
        await client.call("delete_container", container_id=id, force=True)
        for raw in raws:
            await raw.close()
