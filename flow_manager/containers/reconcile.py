"""Following the runtimes: their events are hints, what an inspect or a list says is the truth.

One task a runtime reads its events. An event of a flow leads to one inspect of that flow, unless an operation of ours
holds it: then the end of the operation looks again. A `resync` compares everything.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from flow_manager.containers.core import Core
from flow_manager.containers.create import undo
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.principal import DEFAULT_TENANT
from flow_manager.errors import ContainerNotFound, FlowManagerError
from flow_manager.runtimes.base import Observation, Runtime, RuntimeEvent
from flow_manager.util.ids import new_short_id

# A runtime whose event stream fails although it promised to reconnect by itself is asked again after this many seconds.
WATCH_RETRY = 1.0
ACTOR = "runtime"


class Reconciler:
    """Keeps what the manager knows true to what the runtimes say."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watchers: list[asyncio.Task[None]] = []
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    def open(self) -> None:
        self._core.look_again = self.look
        for runtime in self._core.runtimes.values():
            task = asyncio.get_running_loop().create_task(self._watch(runtime), name=f"watch-{runtime.name}")
            self._watchers.append(task)

    async def close(self) -> None:
        tasks = [*self._watchers, *self._looking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watchers.clear()

    def look(self, entry: FlowEntry) -> None:
        """Inspect a flow soon; many calls at once make one inspect, and one more for what came during it."""
        if entry.id in self._looking:
            self._again.add(entry.id)
            return
        task = asyncio.get_running_loop().create_task(self._look(entry), name=f"look-{entry.id}")
        self._looking[entry.id] = task
        task.add_done_callback(lambda _done: self._looked(entry))

    def _looked(self, entry: FlowEntry) -> None:
        self._looking.pop(entry.id, None)
        if entry.id in self._again:
            self._again.discard(entry.id)
            if not self._core.closing:
                self.look(entry)

    async def _look(self, entry: FlowEntry) -> None:
        try:
            observation = await entry.runtime.inspect(entry.id)
        except ContainerNotFound:
            await self._take_in(entry, None)
        except FlowManagerError as error:
            self._core.log.log_debug("a flow could not be inspected", container=entry.id, reason=error.message)
        else:
            await self._take_in(entry, observation)

    async def _watch(self, runtime: Runtime) -> None:
        while True:
            try:
                async with aclosing(runtime.watch()) as events:  # type: ignore[type-var]
                    async for event in events:
                        await self._on_event(runtime, event)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # One odd event must never end the following of a runtime.
                self._core.log.log_error(new_short_id("err"), error, operation="watch")
            await asyncio.sleep(WATCH_RETRY)

    async def _on_event(self, runtime: Runtime, event: RuntimeEvent) -> None:
        if event.type == "resync":
            await self._resync(runtime)
        elif event.type == "unavailable":
            self._gone_away(runtime, event.reason)
        elif event.type == "available":
            self._came_back(runtime)
        elif event.id is not None:
            entry = self._core.table.get(event.id)
            if entry is None or entry.runtime is not runtime:
                return
            if entry.operation is not None:
                entry.seen_during_operation = True
            else:
                self.look(entry)

    def _gone_away(self, runtime: Runtime, reason: str | None) -> None:
        for entry in self._core.table:
            if entry.runtime is runtime and not entry.stale:
                entry.stale = True
                self._core.tell(entry)
        if self._core.availability.lost(runtime.name, reason or "no answer"):
            for tenant in self._tenants(runtime):
                self._core.activity.log_runtime_unavailable(runtime.name, reason or "no answer", tenant=tenant)

    def _came_back(self, runtime: Runtime) -> None:
        if self._core.availability.back(runtime.name):
            for tenant in self._tenants(runtime):
                self._core.activity.log_runtime_available(runtime.name, tenant=tenant)

    def _tenants(self, runtime: Runtime) -> set[str]:
        """Everybody who has a flow there is told, and the default tenant."""
        return {DEFAULT_TENANT, *(entry.record.tenant for entry in self._core.table if entry.runtime is runtime)}

    async def _resync(self, runtime: Runtime) -> None:
        try:
            found = {observation.id: observation for observation in await runtime.list()}
        except FlowManagerError as error:
            self._gone_away(runtime, error.message)
            return
        self._came_back(runtime)
        for unfinished in list(self._core.unfinished.values()):
            if unfinished.runtime is runtime:
                await undo(self._core, unfinished)
        for entry in self._core.table:
            if entry.runtime is not runtime:
                continue
            if entry.operation is not None:
                entry.seen_during_operation = True
            elif entry.id in found:
                # A list knows less than an inspect (health, exit code): a difference is looked at.
                if _differs(entry, found[entry.id]):
                    self.look(entry)
                else:
                    entry.stale = False
                    self._core.tell(entry)
            else:
                self.look(entry)

    async def _take_in(self, entry: FlowEntry, observation: Observation | None) -> None:
        core = self._core
        if core.table.get(entry.id) is not entry:
            return
        if entry.operation is not None:
            entry.seen_during_operation = True
            return
        before = entry.observation
        was_lost = entry.lost
        if observation is None:
            entry.lost = True
            entry.stale = False
            entry.problem = "its container is gone from the runtime"
            if not was_lost:
                core.activity.log_container_lost(entry.ref)
                await core.channel.cleanup_socket(entry.id)
        else:
            core.observe(entry, observation)
            if before is not None:
                await self._tell_of_change(entry, before, observation)
        core.tell(entry)

    async def _tell_of_change(self, entry: FlowEntry, before: Observation, now: Observation) -> None:
        """What happened without us is told to people, once, in the words of what was seen."""
        core = self._core
        if before.state == now.state and before.started_at == now.started_at:
            return
        if now.state in ("exited", "stopped", "dead"):
            if before.running or before.started_at != now.started_at:
                core.activity.log_container_died(
                    entry.ref, exit_code=now.exit_code, cause="oom" if now.oom_killed else None
                )
                await core.channel.cleanup_socket(entry.id)
        elif now.state == "paused":
            core.activity.log_container_paused(entry.ref, ACTOR)
        elif now.state == "running" and before.state == "paused":
            core.activity.log_container_unpaused(entry.ref, ACTOR)
        elif now.state == "running":
            await core.channel.setup_socket(entry.id)
            core.activity.log_container_started(entry.ref, ACTOR)


def _differs(entry: FlowEntry, found: Observation) -> bool:
    known = entry.observation
    return (
        entry.stale or entry.lost or known is None or known.state != found.state or known.started_at != found.started_at
    )
