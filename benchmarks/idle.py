"""What ten thousand watched flows cost: memory and processor at rest, a lease, a deadline, a nap and a wake.

The floors are the ways that the same could be done without the wheel: a task asleep, or a timer of the event loop, per flow.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.rows import Row, median, percentile, row
from flow_manager.containers.entry import packed
from flow_manager.containers.manager import ContainerManager
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerConfig
from flow_manager.contract.principal import LOCAL
from flow_manager.idle.leases import Leases
from flow_manager.idle.readiness import Prober
from flow_manager.idle.registry import IdleRegistry
from flow_manager.idle.wheel import NEVER, Wheel
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.memory import MemoryRuntime
from flow_manager.settings.models import Settings
from flow_manager.store.base import FlowRecord
from flow_manager.store.sql import SqlStore
from flow_manager.testing.core import open_core
from flow_manager.util.clock import SystemClock
from flow_manager.util.ids import new_flow_id

FLOWS = 10_000
MIB = 2**20
REST_SECONDS = 10.0


@asynccontextmanager
async def manager_with(flows: int, *, awake: bool) -> AsyncIterator[tuple[ContainerManager, IdleRegistry, float]]:
    """A manager that finds so many flows at start, asleep or running; and by how many bytes it grew for them."""
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        root = Path(folder)
        settings = Settings(state_dir=root / "state", sockets_dir=root / "s")
        runtime = MemoryRuntime(instance="bench")
        await runtime.open()
        async with open_core(settings, runtime, instance="bench") as opened:
            await _fill(opened.store, runtime, flows, awake=awake)
            manager = ContainerManager(opened.core)
            registry = IdleRegistry(opened.core, prober=Prober(opened.core.clock))
            await registry.open()
            gc.collect()
            before = psutil.Process().memory_info().rss
            await manager.open()
            if awake:
                while not all(watcher.state == "ready" for watcher in registry.watchers()):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            gc.collect()
            grown = psutil.Process().memory_info().rss - before
            try:
                yield manager, registry, grown
            finally:
                manager.refuse_new()
                await registry.close()
                await manager.close(1.0)
                await runtime.close()


async def _fill(store: SqlStore, runtime: MemoryRuntime, flows: int, *, awake: bool) -> None:
    """What an earlier manager left: records, and containers. Not through `create`, whose activity would be measured, too."""
    for number in range(flows):
        flow_id, name = new_flow_id(), f"flow-{number}"
        config = ContainerConfig.model_validate(
            {
                "image": "memory",
                "name": name,
                "environment": {"LEVEL": "info", "SERVICE": name},
                # Without a port, so that running is ready: nothing listens here.
                **({} if awake else {"ports": {"8000": 0}}),
                "idle": {"idle_timeout": 3600},
            }
        )
        await runtime.create(
            FlowSpec(
                flow_id, name, name, "default", "bench", "memory", command=("sleep",), environment=config.environment
            )
        )
        if awake:
            await runtime.start(flow_id)
        await store.flows.save(
            FlowRecord(
                id=flow_id,
                name=name,
                tenant="default",
                runtime="memory",
                runtime_id=None,
                config=packed(config),
                desired="running",
                created_at=SystemClock().now(),
            )
        )


def at_rest_apart(flows: int, seconds: float, *, awake: bool) -> tuple[float, float, int]:
    """In a process of its own: the second of two measures would find the memory that the first has given back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_at_rest_here, flows, seconds, awake).result()


def _at_rest_here(flows: int, seconds: float, awake: bool) -> tuple[float, float, int]:
    return asyncio.run(at_rest(flows, seconds, awake=awake))


async def at_rest(flows: int, seconds: float, *, awake: bool) -> tuple[float, float, int]:
    """Bytes grown, the share of one core used, and the tasks that are there."""
    async with manager_with(flows, awake=awake) as (_, _, grown):
        await asyncio.sleep(1)
        tasks = len(asyncio.all_tasks())
        process, began = psutil.Process().cpu_times(), time.monotonic()
        await asyncio.sleep(seconds)
        after = psutil.Process().cpu_times()
        used = (after.user + after.system - process.user - process.system) / (time.monotonic() - began)
        return grown, used, tasks


async def naps_and_wakes(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of `sleep_container` and of `wake_container`, everything of ours included, on a runtime that takes none."""
    naps: list[float] = []
    wakes: list[float] = []
    async with manager_with(1, awake=True) as (_, registry, _):
        (watcher,) = registry.watchers()
        for _ in range(rounds):
            began = time.perf_counter()
            await registry.sleep_container(LOCAL, requests.ChangeContainer(container_id=watcher.id))
            slept = time.perf_counter()
            await registry.wake_container(LOCAL, requests.WakeContainer(container_id=watcher.id))
            wakes.append(time.perf_counter() - slept)
            naps.append(slept - began)
    return naps, wakes


def lease_ns(count: int) -> float:
    leases = Leases(time.monotonic)
    use = leases.use
    began = time.perf_counter_ns()
    for _ in range(count):
        use("http", "client").release()
    return (time.perf_counter_ns() - began) / count


class _Item:
    __slots__ = ("wheel_at", "wheel_tick")

    def __init__(self) -> None:
        self.wheel_at, self.wheel_tick = NEVER, 0

    def wheel_due(self, _now: float) -> None: ...


def _bytes_of(make: Callable[[], object]) -> float:
    gc.collect()
    tracemalloc.start()
    kept = make()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return size / FLOWS


async def wheel_figures() -> tuple[float, float, float, float]:
    """Bytes a deadline in the wheel, as a task, as a timer; and ns to move a deadline on."""
    loop = asyncio.get_running_loop()
    wheel, clock = Wheel(SystemClock()), SystemClock()
    items = [_Item() for _ in range(FLOWS)]
    now = clock.monotonic()

    def arm() -> None:
        for number, item in enumerate(items):
            wheel.arm(item, now + 300 + number * 0.03)

    in_wheel = _bytes_of(arm)
    began = time.perf_counter_ns()
    for number, item in enumerate(items):
        wheel.arm(item, now + 700 + number * 0.03)
    moved = (time.perf_counter_ns() - began) / FLOWS
    wheel.close()
    tasks: list[asyncio.Task[None]] = []
    timers: list[asyncio.TimerHandle] = []
    gc.collect()
    tracemalloc.start()
    tasks.extend(loop.create_task(asyncio.sleep(300)) for _ in range(FLOWS))
    await asyncio.sleep(0)
    as_task = tracemalloc.get_traced_memory()[0] / FLOWS
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    as_timer = _bytes_of(lambda: timers.extend(loop.call_later(300, lambda: None) for _ in range(FLOWS)))
    for timer in timers:
        timer.cancel()
    return in_wheel, as_task, as_timer, moved


async def run(quick: bool) -> list[Row]:
    flows, seconds = (2_000, 3.0) if quick else (FLOWS, REST_SECONDS)
    asleep, asleep_cpu, asleep_tasks = at_rest_apart(flows, seconds, awake=False)
    awake, awake_cpu, awake_tasks = at_rest_apart(flows, seconds, awake=True)
    naps, wakes = await naps_and_wakes(50 if quick else 300)
    lease = median([lease_ns(100_000) for _ in range(5)])
    in_wheel, as_task, as_timer, moved = await wheel_figures()
    what = f"{flows:,} flows"
    return [
        row(f"{what} asleep: memory", asleep / MIB, "MiB"),
        row(f"{what} asleep: processor", asleep_cpu * 100, "% of a core"),
        row(f"{what} asleep: tasks", asleep_tasks, "tasks", flows),
        row(f"{what} awake and unused: memory", awake / MIB, "MiB"),
        row(f"{what} awake and unused: processor", awake_cpu * 100, "% of a core"),
        row(f"{what} awake and unused: tasks", awake_tasks, "tasks", flows),
        row("sleep_container, memory runtime: p50", median(naps) * 1000, "ms"),
        row("wake_container, memory runtime: p50", median(wakes) * 1000, "ms"),
        row("wake_container, memory runtime: p99", percentile(wakes, 0.99) * 1000, "ms"),
        row("a lease taken and released", lease, "ns"),
        row("a deadline in the wheel (floor: a task asleep)", in_wheel, "bytes", as_task),
        row("a deadline in the wheel (floor: call_later)", in_wheel, "bytes", as_timer),
        row("a deadline moved on", moved, "ns"),
    ]
