"""What flows use: measured when somebody asks or follows, remembered for a second, never for a flow that sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.status import state_of, usage_without_figures
from flow_manager.contract.models import ContainerStatus, ResourceUsage
from flow_manager.errors import ContainerNotFound, FlowManagerError

# Seconds for which a reading answers whoever asks.
FRESH = 1.0
# An older one is shown where a new one does not come in time, up to this age.
USABLE = 10.0
# How long one who asks for a status waits for figures: not noticed by people, and enough for two readings.
PATIENCE = 0.25
# A share of processor time lies between two readings: the first one is followed by a second after so many seconds.
APART = 0.1
# Readings under way, and calls of an engine among them. Past it a status goes without: a list of a thousand flows must not
# become a thousand calls at once.
MAX_UNDER_WAY = 32
WIDTH = 8
# Those who follow get a reading so often, in seconds, unless that made more calls a second than this.
INTERVAL = 2.0
CALLS_PER_SECOND = 100.0


class UsageListener(Protocol):
    """Who follows one flow. Synchronous and quick."""

    def sampled(self, usage: ResourceUsage, at: datetime) -> None: ...

    def end(self, code: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Sample:
    usage: ResourceUsage
    taken: float
    run: datetime | None


class UsageMeter:
    """Made with the manager; `close` ends what is being measured. Without anybody who asks it does nothing."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._samples: dict[str, _Sample] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._calls = asyncio.Semaphore(WIDTH)
        self._listeners: dict[str, list[UsageListener]] = {}
        self._series: asyncio.Task[None] | None = None
        self._all_series: set[asyncio.Task[None]] = set()  # those that are about to end, too
        core.usage_of = self.latest
        core.status_listeners.append(self._status_changed)
        core.forget_listeners.append(self._forget)

    @property
    def followers(self) -> int:
        return sum(map(len, self._listeners.values()))

    def latest(self, entry: FlowEntry) -> ResourceUsage:
        """What was measured last of this run, unless that is too old to be told. From memory."""
        sample = self._sample(entry)
        return sample.usage if sample is not None else usage_without_figures(entry)

    def due(self, entry: FlowEntry) -> bool:
        """A status should wait a moment for new figures."""
        if not _measurable(entry) or self._core.closing:
            return False
        # One whose engine did not answer the last one who asked keeps nobody waiting again.
        if entry.id in self._under_way or len(self._under_way) >= MAX_UNDER_WAY:
            return False
        sample = self._sample(entry)
        return sample is None or self._core.clock.monotonic() - sample.taken > FRESH

    async def refresh(self, entry: FlowEntry) -> None:
        """Measure now; returns when that is done, or after `PATIENCE` seconds. Never fails."""
        await asyncio.wait([self._measuring(entry)], timeout=PATIENCE)

    def follow(self, entry: FlowEntry, listener: UsageListener) -> None:
        """Tell `listener` how it is now, and from now on."""
        self._listeners.setdefault(entry.id, []).append(listener)
        listener.sampled(self.latest(entry), self._core.clock.now())
        if self._series is None or self._series.done():
            self._series = asyncio.get_running_loop().create_task(self._keep_measuring(), name="usage-series")
            self._all_series.add(self._series)
            self._series.add_done_callback(self._all_series.discard)

    def leave(self, flow_id: str, listener: UsageListener) -> None:
        listeners = self._listeners.get(flow_id, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(flow_id, None)
        if not self._listeners and self._series is not None:
            # Not `done` before the loop's next turn: whoever follows until then needs a series of their own.
            self._series.cancel()
            self._series = None

    async def close(self) -> None:
        self._listeners.clear()
        tasks = [*self._under_way.values(), *self._all_series]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _sample(self, entry: FlowEntry) -> _Sample | None:
        sample = self._samples.get(entry.id)
        if sample is None or not _measurable(entry) or sample.run != _run(entry):
            return None
        return sample if self._core.clock.monotonic() - sample.taken <= USABLE else None

    def _measuring(self, entry: FlowEntry) -> asyncio.Task[None]:
        task = self._under_way.get(entry.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._measure(entry), name=f"usage-{entry.id}")
            self._under_way[entry.id] = task
            task.add_done_callback(lambda _: self._under_way.pop(entry.id, None))
        return task

    async def _measure(self, entry: FlowEntry) -> None:
        first = self._sample(entry) is None
        run = _run(entry)
        try:
            usage = await self._read(entry)
            if first and usage.cpu_percent is None and usage.memory_bytes is not None:
                await asyncio.sleep(APART)
                usage = await self._read(entry)
        except FlowManagerError:
            # Asked again in a second at the earliest.
            usage = usage_without_figures(entry)
        if self._core.table.get(entry.id) is entry:
            self._samples[entry.id] = _Sample(usage, self._core.clock.monotonic(), run)

    async def _read(self, entry: FlowEntry) -> ResourceUsage:
        async with self._calls:
            usage = await entry.runtime.stats(entry.id)
        if usage.memory_limit_bytes is None:
            usage = usage.model_copy(update={"memory_limit_bytes": entry.config.resources.memory})
        return usage

    async def _keep_measuring(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            flows = [entry for flow_id in self._listeners if (entry := self._core.table.get(flow_id)) is not None]
            wanted = [entry for entry in flows if _measurable(entry)]
            for place in range(0, len(wanted), WIDTH):
                part = wanted[place : place + WIDTH]
                turn = loop.time() + len(part) / CALLS_PER_SECOND
                await asyncio.wait([self._measuring(entry) for entry in part])
                for entry in part:
                    self._tell(entry)
                await asyncio.sleep(max(0.0, turn - loop.time()))
            await asyncio.sleep(max(0.0, began + INTERVAL - loop.time()))

    def _tell(self, entry: FlowEntry) -> None:
        usage, now = self.latest(entry), self._core.clock.now()
        for listener in _copy(self._listeners.get(entry.id)):
            listener.sampled(usage, now)

    def _status_changed(self, _tenant: str, status: ContainerStatus) -> None:
        if status.state == "running" and not status.stale:
            return
        # It used something until now, and does not any more: said once, then nothing until it runs again.
        measured = self._samples.pop(status.id, None)
        entry = self._core.table.get(status.id)
        if measured is not None and entry is not None and status.id in self._listeners:
            self._tell(entry)

    def _forget(self, entry: FlowEntry) -> None:
        self._samples.pop(entry.id, None)
        for listener in _copy(self._listeners.pop(entry.id, None)):
            listener.end(ContainerNotFound.code)


def _measurable(entry: FlowEntry) -> bool:
    # A frozen flow sleeps as one that was stopped does.
    return state_of(entry) == "running" and not entry.stale


def _run(entry: FlowEntry) -> datetime | None:
    return entry.observation.started_at if entry.observation is not None else None


def _copy(listeners: Iterable[UsageListener] | None) -> list[UsageListener]:
    return list(listeners or ())
