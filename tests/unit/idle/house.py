"""A manager with watchers over the memory runtime: real locks, store and channel; the clock and the probes are the test's."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flow_manager.activity.stream import ActivityStream
from flow_manager.containers.core import Core
from flow_manager.containers.manager import ContainerManager
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import LOCAL
from flow_manager.idle.readiness_target import NotReady, ProbeTarget
from flow_manager.idle.registry import IdleRegistry
from flow_manager.idle.upstream import Candidate
from flow_manager.idle.watcher import Watcher
from flow_manager.settings.models import Settings
from flow_manager.store.sql import SqlStore
from flow_manager.testing import FakeClock, Faults, MemoryEngine, MemoryRuntime, eventually
from flow_manager.testing.core import open_core

UPSTREAM = Candidate("127.0.0.1", 8000)


class FakeTimer:
    """`call_later` on a FakeClock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.armed = 0

    def __call__(self, delay: float, callback: Callable[[], None]) -> asyncio.Future[None]:
        def over(done: asyncio.Future[None]) -> None:
            self.armed -= 1
            if not done.cancelled():
                callback()

        self.armed += 1
        # Known to the clock at once: a task's first step may come only after the clock was moved on, and be late by that.
        timer = self._clock.timer(max(delay, 1e-9))
        timer.add_done_callback(over)
        return timer


@dataclass
class FakeProber:
    """Passes at once, unless it is told to wait or to fail."""

    held: asyncio.Event = field(default_factory=asyncio.Event)
    failing: dict[str, NotReady] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    probed: list[str] = field(default_factory=list)
    upstream: Candidate = UPSTREAM

    def __post_init__(self) -> None:
        self.held.set()

    async def wait_ready(
        self, target: ProbeTarget, *, deadline: float, told: Callable[[str], None]
    ) -> Candidate | None:
        self.asked.append(target.flow_id)
        told("TCP port 8000")
        while not self.held.is_set():
            if target.ended():
                raise NotReady("TCP port 8000", "refused", reason="exited")
            try:
                async with asyncio.timeout(0.005):
                    await self.held.wait()
            except TimeoutError:
                pass
        if target.ended():
            raise NotReady("TCP port 8000", "refused", reason="exited")
        if target.flow_id in self.failing:
            raise self.failing[target.flow_id]
        return self.upstream

    async def alive(self, target: ProbeTarget) -> bool:
        self.probed.append(target.flow_id)
        return target.flow_id not in self.dead


@dataclass
class IdleHouse:
    root: Path
    clock: FakeClock
    core: Core
    manager: ContainerManager
    registry: IdleRegistry
    prober: FakeProber
    runtime: MemoryRuntime
    faults: Faults
    store: SqlStore
    stream: ActivityStream
    timer: FakeTimer
    statuses: list[ContainerStatus]
    counted: dict[str, list[str]]

    async def create(self, name: str = "web", *, start: bool = False, **config: Any) -> Watcher:
        config.setdefault("idle", {"idle_timeout": 60})
        values = {"image": "memory", "command": ["polite"], "name": name, "start": start, **config}
        if values["idle"] is None:
            del values["idle"]
        info = await self.manager.create_container(LOCAL, requests.CreateContainer.model_validate(values))
        watcher = self.registry.watcher(info.id)
        assert watcher is not None
        if start:
            await self.comes(watcher, "ready")
        return watcher

    async def comes(self, watcher: Watcher, state: str, *, timeout: float = 5.0) -> None:
        """Wait in real time, the clock stands still."""
        async with asyncio.timeout(timeout):
            try:
                await watcher.until(lambda: watcher.state == state)
            except TimeoutError:
                raise AssertionError(f"{watcher.name} is {watcher.state}, not {state}") from None

    async def stop(self, watcher: Watcher) -> None:
        await self.manager.stop_container(LOCAL, requests.StopContainer(container_id=watcher.id))

    async def start(self, watcher: Watcher) -> None:
        await self.manager.start_container(LOCAL, requests.StartContainer(container_id=watcher.id))

    async def activity(self, *types: str) -> list[Any]:
        stored = await self.stream.read(limit=1000)
        return [item.entry for item in stored if not types or item.entry.type in types]

    async def told(self, type: str, count: int = 1) -> list[Any]:
        async def there() -> list[Any]:
            found = await self.activity(type)
            return found if len(found) >= count else []

        return await eventually(there, what=f"{count} entries of {type}")

    async def settled(self) -> None:
        """Let everything that is under way get on; the clock stands still."""
        await self.clock.run(0)
        await asyncio.sleep(0.01)
        await self.clock.run(0)

    def starts(self, watcher: Watcher) -> int:
        return self.counted.get(watcher.id, []).count("start")

    def see(self, watcher: Watcher, cause: str | None = None, **changes: Any) -> None:
        """The runtime says this of it, whatever it is really like."""
        entry = watcher.entry
        assert entry.observation is not None
        self.core.observe(entry, replace(entry.observation, **changes), cause)


class CountingRuntime(MemoryRuntime):
    """Remembers which calls were made for which flow."""

    def __init__(self, *args: Any, counted: dict[str, list[str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.counted = counted

    def _count(self, id: str, call: str) -> None:
        self.counted.setdefault(id, []).append(call)

    async def start(self, id: str) -> Any:
        self._count(id, "start")
        return await super().start(id)

    async def stop(self, id: str, **more: Any) -> Any:
        self._count(id, "stop")
        return await super().stop(id, **more)

    async def kill(self, id: str, signal: str = "SIGKILL") -> Any:
        self._count(id, "kill")
        return await super().kill(id, signal)

    async def pause(self, id: str) -> Any:
        self._count(id, "pause")
        return await super().pause(id)


class IdleBuilder:
    """Opens such a house on one state folder and one engine, again and again, as restarts would."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="fm-"))
        self.clock = FakeClock()
        self.engine = MemoryEngine(clock=self.clock)

    async def close(self) -> None:
        await self.engine.close()
        shutil.rmtree(self.root)

    @asynccontextmanager
    async def open(self, *, runtimes: Sequence[str] = ("memory",), **changes: Any) -> AsyncIterator[IdleHouse]:
        settings = Settings.model_validate(
            {"state_dir": self.root / "state", "sockets_dir": self.root / "s", **changes}
        )
        clock = self.clock
        faults, counted = Faults(), {}
        known = {
            name: CountingRuntime(
                name,
                instance="i",
                faults=faults,
                engine=self.engine,
                sleep=clock.sleep,
                call_timeout=1000.0,
                counted=counted,
            )
            for name in runtimes
        }
        for runtime in known.values():
            await runtime.open()
        async with open_core(settings, *known.values(), clock=clock) as opened:
            core = opened.core
            manager, prober, timer = ContainerManager(core), FakeProber(), FakeTimer(clock)
            registry = IdleRegistry(core, prober=prober, call_later=timer)
            statuses: list[ContainerStatus] = []
            manager.on_status(lambda _tenant, status: statuses.append(status))
            await registry.open()
            await manager.open()
            first = known[runtimes[0]]
            try:
                yield IdleHouse(
                    self.root,
                    clock,
                    core,
                    manager,
                    registry,
                    prober,
                    first,
                    faults,
                    opened.store,
                    opened.stream,
                    timer,
                    statuses,
                    counted,
                )
            finally:
                manager.refuse_new()
                await registry.close()
                await manager.close(1.0)
                for runtime in known.values():
                    await runtime.close()
