"""What following a thousand containers on Proxmox VE costs, on the emulator: calls, and the time that one look takes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row, median, row
from flow_manager.runtimes.proxmox.provider import ProxmoxProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from tests.pve.emulator import Emulator

CONTAINERS = 1000
MINUTE = 60.0


async def run(*, quick: bool) -> list[Row]:
    containers = 100 if quick else CONTAINERS
    seconds = 15.0 if quick else MINUTE
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        async with Emulator(staleness=10.0) as pve:
            for number in range(containers):
                pve.add_container(("pve1", "pve2")[number % 2], running=number % 2 == 0, tags="flow-manager")
            token_id, secret = pve.token()
            settings = RuntimeSettings(
                kind="proxmox", url=pve.url, token_id=token_id, secret=secret, ca_file=pve.ca_file, adopt=True
            )
            runtime = ProxmoxProvider(
                "lab",
                settings,
                instance="bench",
                limits=LimitSettings(),
                sockets_dir=Path(folder) / "s",
                state_dir=Path(folder),
            )
            await runtime.open()
            try:
                began = time.perf_counter()
                assert len(await runtime.list()) == containers
                found = time.perf_counter() - began
                calls, count = await _at_rest(pve, seconds)
                looks = await _looks(runtime)
            finally:
                await runtime.close()
    what = f"{containers:,} LXC containers at rest"
    return [
        row(f"{what}: calls to the server a minute", calls * MINUTE / seconds, "calls"),
        row(f"{what}: kinds of calls", count, "kinds"),
        row(f"{containers:,} LXC containers: found at start", found * 1000, "ms"),
        row(f"{containers:,} LXC containers: one look", median(looks) * 1000, "ms"),
    ]


async def _at_rest(pve: Emulator, seconds: float) -> tuple[int, int]:
    """Calls, and how many kinds of them, in so many seconds after all has settled."""
    before, after = pve.calls(), None
    while before != after:  # addresses of the running ones are read once
        before = pve.calls() if after is None else after
        await asyncio.sleep(4.5)
        after = pve.calls()
        if set(after - before) <= {"GET /cluster/resources"}:
            break
    start = pve.calls()
    await asyncio.sleep(seconds)
    made = pve.calls() - start
    return sum(made.values()), len(made)


async def _looks(runtime: ProxmoxProvider) -> list[float]:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        await runtime._feed.look()
        times.append(time.perf_counter() - began)
    return times
