"""Start, stop, create and delete through the whole service, beside the engine's raw API for a twin of the same container.

The twin has the same image, command, mount and network; ours and the engine's turns alternate, so that drift of the
machine falls on both.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.client import Client, connected
from benchmarks.raw_engine import RawEngine
from benchmarks.rows import Row, median, row
from benchmarks.server import serving

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import engine as engine_script
import images

# Ends at once on TERM, so that a stop measures us and the engine, not the program's grace.
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
AT_A_TIME = (1, 4, 16)
# What the service does after its reply must not fall on the engine's own turn, nor the engine's clearing up on ours.
SETTLE_SECONDS = 0.1
Operation = Callable[[], Awaitable[None]]


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """The reachable engine, or a private one for this run."""
    host = engine_script.find()
    own = None
    if host is None:
        engine_script.prepare()
        own = engine_script.PrivateEngine(f"bench-{os.getpid()}")
        host = await asyncio.to_thread(own.start)
    try:
        await asyncio.to_thread(images.ensure, host, images.BUSYBOX)
        yield host
    finally:
        if own is not None:
            await asyncio.to_thread(own.stop)


class Ours:
    """The service's side."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self) -> str:
        made = await self._client.call("create_container", image=images.BUSYBOX, command=COMMAND)
        return str(made["id"])

    async def start(self, id: str) -> None:
        status = await self._client.call("start_container", container_id=id)
        assert status["state"] == "running", status

    async def stop(self, id: str) -> None:
        status = await self._client.call("stop_container", container_id=id)
        assert status["state"] == "exited", status

    async def delete(self, id: str) -> None:
        await self._client.call("delete_container", container_id=id)

    async def runtime_id(self, id: str) -> str:
        return str((await self._client.call("get_container", container_id=id))["runtime_id"])


class Raw:
    """The engine's side: `body` is what the engine itself says of a container that the service made."""

    def __init__(self, host: str, body: dict[str, Any], connections: int) -> None:
        self._idle: asyncio.Queue[RawEngine] = asyncio.Queue()
        self._all = [RawEngine(host) for _ in range(connections)]
        for connection in self._all:
            self._idle.put_nowait(connection)
        self._body = body
        self._numbers = count()

    async def close(self) -> None:
        for connection in self._all:
            await connection.close()

    async def _request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        connection = await self._idle.get()
        try:
            return await connection.request(method, path, body, **params)
        finally:
            self._idle.put_nowait(connection)

    async def create(self) -> str:
        name = f"flow-manager-bench-{os.getpid()}-{next(self._numbers)}"
        return str((await self._request("POST", "/containers/create", self._body, name=name))["Id"])

    async def start(self, id: str) -> None:
        await self._request("POST", f"/containers/{id}/start")

    async def stop(self, id: str) -> None:
        await self._request("POST", f"/containers/{id}/stop", t=10)

    async def delete(self, id: str) -> None:
        await self._request("DELETE", f"/containers/{id}", v=1)


async def twin(host: str, runtime_id: str) -> dict[str, Any]:
    """What to create a container from that equals this one, except that it isn't the service's (no labels of its)."""
    engine = RawEngine(host)
    try:
        seen = await engine.request("GET", f"/containers/{runtime_id}/json")
    finally:
        await engine.close()
    config = {
        key: seen["Config"][key]
        for key in ("Image", "Cmd", "Entrypoint", "Env", "User", "Tty", "OpenStdin", "WorkingDir")
    }
    network = seen["HostConfig"]["NetworkMode"]
    return config | {
        "HostConfig": seen["HostConfig"],
        "NetworkingConfig": {"EndpointsConfig": {network: {}}} if network not in ("default", "bridge") else {},
    }


async def timed(operation: Awaitable[None]) -> float:
    await asyncio.sleep(SETTLE_SECONDS)
    started = time.perf_counter()
    await operation
    return (time.perf_counter() - started) * 1000


async def latencies(ours: Ours, raw: Raw, own_id: str, repeats: int) -> list[Row]:
    raw_id = await raw.create()
    sides: list[tuple[Ours | Raw, str, dict[str, list[float]]]] = [
        (ours, own_id, {"start": [], "stop": []}),
        (raw, raw_id, {"start": [], "stop": []}),
    ]
    for turn in range(repeats + 1):
        for side, id, times in sides if turn % 2 else reversed(sides):
            taken = [await timed(operation) for operation in (side.start(id), side.stop(id))]
            if turn:  # the first turn warms caches and is thrown away
                times["start"].append(taken[0])
                times["stop"].append(taken[1])
    await raw.delete(raw_id)
    rows = []
    for what in ("start", "stop"):
        own, engine = sides[0][2][what], sides[1][2][what]
        rows.append(row(f"{what} a container, p50", median(own), "ms", median(engine)))
        # Turn by turn: what slows both for a while cancels out.
        beyond = median([mine - its for mine, its in zip(own, engine, strict=True)])
        rows.append(row(f"{what} a container, p50 beyond the engine's", beyond, "ms"))
    return rows


async def rate(side: Ours | Raw, pairs: int, at_a_time: int) -> float:
    """Creates and deletes: pairs a second with `at_a_time` in flight."""
    left = iter(range(pairs))

    async def worker() -> None:
        for _ in left:
            await side.delete(await side.create())

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    return pairs / (time.perf_counter() - started)


async def throughput(ours: Ours, raw: Raw, pairs: int, rounds: int) -> list[Row]:
    rows = []
    for at_a_time in AT_A_TIME:
        rates: dict[Ours | Raw, list[float]] = {ours: [], raw: []}
        for turn in range(rounds):
            for side in (ours, raw) if turn % 2 else (raw, ours):
                rates[side].append(await rate(side, max(pairs, at_a_time), at_a_time))
        name = f"create and delete, {at_a_time} at a time"
        rows.append(row(name, median(rates[ours]), "pairs/s", median(rates[raw])))
    return rows


async def remove_networks(host: str, instance: str) -> None:
    """The service keeps its networks for the flows that go on; this instance never comes back."""
    raw = RawEngine(host)
    try:
        for network in await raw.request("GET", "/networks"):
            if instance in network["Name"]:
                await raw.request("DELETE", f"/networks/{network['Id']}")
    finally:
        await raw.close()


async def run(quick: bool) -> list[Row]:
    instance = f"bench-{os.getpid()}"
    settings = {"runtime": "docker", "instance": instance}
    async with engine() as host:
        try:
            docker = {"runtimes": {"docker": {"url": host}}}
            async with serving("service", settings | docker) as service, connected(service.url) as client:
                return await measure(host, client, quick)
        finally:
            await remove_networks(host, instance)


async def measure(host: str, client: Client, quick: bool) -> list[Row]:
    ours = Ours(client)
    own_id = await ours.create()
    raw = Raw(host, await twin(host, await ours.runtime_id(own_id)), max(AT_A_TIME))
    try:
        rows = await latencies(ours, raw, own_id, 5 if quick else 40)
        return rows + await throughput(ours, raw, 16 if quick else 48, 2 if quick else 6)
    finally:
        await client.call("delete_container", container_id=own_id, force=True)
        await raw.close()
