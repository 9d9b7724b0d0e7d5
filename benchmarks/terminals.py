"""A terminal's output through the whole service, beside the engine's raw API for the same program in the same container.

Both read what `head -c N /dev/zero` writes to a PTY, up to its end. The floor is one hijacked connection to the engine; ours
is a WebSocket client that counts bytes and decodes nothing, with the flow's own process on the other side.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import aiohttp

from benchmarks.client import connected
from benchmarks.engine import engine, images, remove_networks
from benchmarks.raw_engine import RawEngine
from benchmarks.rows import Row, median, row
from benchmarks.server import serving

MIB = 1024 * 1024


def command(size: int) -> list[str]:
    return ["sh", "-c", f"head -c {size} /dev/zero"]


async def raw_output(raw: RawEngine, runtime_id: str, size: int) -> float:
    body = {"Cmd": command(size), "Tty": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    made = await raw.request("POST", f"/containers/{runtime_id}/exec", body)
    began = time.perf_counter()
    output = await raw.to_the_end("POST", f"/exec/{made['Id']}/start", {"Detach": False, "Tty": True})
    assert len(output) == size, len(output)
    return size / MIB / (time.perf_counter() - began)


async def our_output(url: str, flow: str, size: int) -> float:
    request = {"container_id": flow, "command": command(size)}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0) as socket:  # fmt: skip
        await socket.receive()
        await socket.send_str("40")
        began = time.perf_counter()
        await socket.send_str(f'421["attach_container",{json.dumps(request)}]')
        taken = 0
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                taken += len(message.data)
            elif "terminal_closed" in message.data:
                break
        seconds = time.perf_counter() - began
    assert taken == size, taken
    return size / MIB / seconds


async def run(quick: bool) -> list[Row]:
    instance = f"bench-terminals-{os.getpid()}"
    async with engine() as host:
        settings = {"runtime": "docker", "instance": instance, "runtimes": {"docker": {"url": host}}}
        try:
            async with serving("service", settings) as service, connected(service.url) as client:
                made: dict[str, Any] = await client.call(
                    "create_container", image=images.BUSYBOX, command=["sleep", "100000"], start=True
                )
                raw = RawEngine(host)
                try:
                    return await measure(raw, service.url, made, quick)
                finally:
                    await raw.close()
                    await client.call("delete_container", container_id=made["id"], force=True)
        finally:
            await remove_networks(host, instance)


async def measure(raw: RawEngine, url: str, flow: dict[str, Any], quick: bool) -> list[Row]:
    size = (2 if quick else 16) * MIB
    mine: list[float] = []
    its: list[float] = []
    for turn in range(3 if quick else 9):
        # In turn, so that what slows one slows the other; the first turn warms up and is thrown away.
        floor, own = await raw_output(raw, flow["runtime_id"], size), await our_output(url, flow["id"], size)
        if turn:
            its.append(floor)
            mine.append(own)
        await asyncio.sleep(0.1)
    return [row("terminal output, one viewer (floor: the engine's API)", median(mine), "MiB/s", median(its))]
