"""Following the runtimes: their events are hints, what an inspect or a list says is the truth.

One task a runtime reads its events. An event of a flow leads to one inspect of that flow, unless an operation of ours
holds it: then the end of the operation looks again. A `resync` compares everything.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from flow_manager.containers.adopt import adopt, forget_gone, keep_up, let_go_of
from flow_manager.containers.channels import open_channel
from flow_manager.containers.code_swap import UPDATING, recover_update
from flow_manager.containers.core import Core
from flow_manager.containers.create import undo
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.principal import DEFAULT_TENANT, MANAGER
from flow_manager.errors import ContainerNotFound, FlowManagerError
from flow_manager.runtimes.base import Observation, Runtime, RuntimeEvent
from flow_manager.util.ids import new_short_id

# A runtime whose event stream fails although it promised to reconnect by itself is asked again after this many seconds.
WATCH_RETRY = 1.0
# A comparison of ten thousand flows lets others have their turn after so many.
TURN_AFTER = 500
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
            task = asyncio.get_running_loop().create_task(
                self._resync_regularly(runtime), name=f"resync-{runtime.name}"
            )
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
        if entry.operation is not None:
            entry.seen_during_operation = True
            return
        operations = entry.operations
        try:
            observation = await entry.runtime.inspect(entry.id)
        except ContainerNotFound as error:
            if entry.record.adopted and error.details.get("left_alone"):
                await self._let_go(entry)
            else:
                await self._take_in(entry, None)
        except FlowManagerError as error:
            self._core.log.log_debug("a flow could not be inspected", container=entry.id, reason=error.message)
        else:
            if entry.operations != operations:
                # A whole operation came and went meanwhile: what was answered may be from before it.
                self._again.add(entry.id)
                return
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
            await self.resync(runtime)
        elif event.type == "unavailable" and event.id is not None:
            self._out_of_reach(runtime, event)
        elif event.type == "unavailable":
            self._gone_away(runtime, event.reason)
        elif event.type == "available" and event.id is None:
            self._came_back(runtime)
        elif event.type in ("waiting", "waited"):
            self._held_up(runtime, event)
        elif event.id is not None:
            entry = self._core.table.get(event.id)
            if entry is None and event.type in ("created", "started"):
                await self._meet(runtime, event.id)
            if entry is None or entry.runtime is not runtime:
                return
            if event.type in ("died", "started"):
                self._hear_why(entry, event)
            if entry.operation is not None:
                entry.seen_during_operation = True
            else:
                self.look(entry)

    def _hear_why(self, entry: FlowEntry, event: RuntimeEvent) -> None:
        """An end that somebody outside asked for holds, whoever else was ending it just then: what they want stopped must not
        be woken by the next request because an idle stop was quicker."""
        if event.type == "died" and _of_an_earlier_run(entry, event):
            return
        entry.end_cause = event.cause
        entry.stopped_outside = event.type == "died" and event.cause == "stop"
        if entry.stopped_outside and entry.operation is None and not entry.running:
            # An inspect was quicker than the event: it could not know why.
            self._core.explain_end(entry)

    def _held_up(self, runtime: Runtime, event: RuntimeEvent) -> None:
        """The operation under way waits for something that nobody here can end: people are told what it is."""
        core, entry = self._core, self._core.table.get(event.id or "")
        reason = event.reason or "something outside"
        if entry is None or entry.runtime is not runtime:
            return
        if event.type == "waited":
            core.observer.operation_goes_on(entry, reason)
        elif entry.operation is not None:
            core.observer.operation_waits(entry, reason)
            core.activity.log_user_activity(
                "operation_waiting",
                f"flow *{entry.record.name}*: {entry.operation} waits for {reason}",
                flow=entry.ref,
                actor=ACTOR,
                details={"operation": entry.operation, "waiting_for": reason},
            )

    def _out_of_reach(self, runtime: Runtime, event: RuntimeEvent) -> None:
        """The runtime answers, but where this flow is nobody does: its state is the last known."""
        core, entry = self._core, self._core.table.get(event.id or "")
        if entry is None or entry.runtime is not runtime or entry.stale:
            return
        entry.stale = True
        core.tell(entry)
        reason = event.reason or "no answer"
        core.activity.log_user_activity(
            "flow_unreachable",
            f"flow *{entry.record.name}* is out of reach: {reason}",
            flow=entry.ref,
            actor=ACTOR,
            details={"reason": reason},
        )

    def _gone_away(self, runtime: Runtime, reason: str | None) -> None:
        for entry in self._core.table:
            if entry.runtime is runtime and not entry.stale:
                entry.stale = True
                self._core.tell(entry)
        if self._core.availability.lost(runtime.name, reason or "no answer"):
            self._core.observer.runtime_away(runtime.name)
            for tenant in self._tenants(runtime):
                self._core.activity.log_runtime_unavailable(runtime.name, reason or "no answer", tenant=tenant)

    def _came_back(self, runtime: Runtime) -> None:
        if self._core.availability.back(runtime.name):
            self._core.observer.runtime_back(runtime.name)
            for tenant in self._tenants(runtime):
                self._core.activity.log_runtime_available(runtime.name, tenant=tenant)

    def _tenants(self, runtime: Runtime) -> set[str]:
        """Everybody who has a flow there is told, and the default tenant."""
        return {DEFAULT_TENANT, *(entry.record.tenant for entry in self._core.table if entry.runtime is runtime)}

    async def _meet(self, runtime: Runtime, flow_id: str) -> None:
        """Something that isn't known: perhaps somebody made a container for us to adopt."""
        try:
            observation = await runtime.inspect(flow_id)
        except FlowManagerError:
            return  # gone again, or a later look finds it
        await self._adopt(runtime, observation)

    async def _resync_regularly(self, runtime: Runtime) -> None:
        """Events can be lost without anybody noticing: what is known is compared all the same."""
        while True:
            await asyncio.sleep(self._core.settings.idle.resync)
            try:
                await self.resync(runtime, glance=True)
            except Exception as error:
                self._core.log.log_error(new_short_id("err"), error, operation="resync")

    async def resync(self, runtime: Runtime, *, glance: bool = False) -> None:
        """Compare everything; `glance`: by a look that costs little, and may miss what such a look can't show."""
        try:
            seen = await (runtime.glance() if glance else runtime.list())
        except FlowManagerError as error:
            self._gone_away(runtime, error.message)
            return
        found = {observation.id: observation for observation in seen}
        self._came_back(runtime)
        for unfinished in list(self._core.unfinished.values()):
            if unfinished.runtime is runtime:
                await undo(self._core, unfinished)
        for entry in self._core.table:
            if entry.runtime is runtime and entry.record.phase == UPDATING and entry.updating is None:
                await self._take_update_back(entry)
        for number, entry in enumerate(self._core.table, 1):
            if number % TURN_AFTER == 0:
                await asyncio.sleep(0)
            if entry.runtime is not runtime:
                continue
            if entry.operation is not None:
                entry.seen_during_operation = True
            elif entry.id in found:
                # A list knows less than an inspect (health, exit code): a difference is looked at.
                if _differs(entry, found[entry.id]):
                    self.look(entry)
            elif not entry.lost:
                self.look(entry)
        for observation in seen:
            await self._adopt(runtime, observation)
        await forget_gone(self._core, runtime, found)

    async def _take_update_back(self, entry: FlowEntry) -> None:
        """The runtime went away in the middle of an update, or was away when a manager that died in one came back."""
        core = self._core

        async def body() -> None:
            if entry.record.phase == UPDATING and entry.updating is None:
                await recover_update(core, entry)

        try:
            await core.operate(entry, "update", object(), MANAGER, body)
        except FlowManagerError as error:
            core.log.log_debug("an update can't be taken back yet", container=entry.id, reason=error.message)

    async def _adopt(self, runtime: Runtime, observation: Observation) -> None:
        try:
            await adopt(self._core, runtime, observation)
        except FlowManagerError as error:
            self._core.log.log_debug(
                "a container could not be adopted yet", container=observation.id, reason=error.message
            )

    async def _let_go(self, entry: FlowEntry) -> None:
        if entry.operation is not None or self._core.table.get(entry.id) is not entry:
            entry.seen_during_operation = True
            return
        try:
            await let_go_of(self._core, entry, ACTOR)
        except FlowManagerError as error:
            self._core.log.log_debug("a flow can't be let go yet", container=entry.id, reason=error.message)

    async def _take_in(self, entry: FlowEntry, observation: Observation | None) -> None:
        core = self._core
        if core.table.get(entry.id) is not entry:
            return
        if entry.operation is not None:
            entry.seen_during_operation = True
            return
        if observation is not None and entry.record.adopted:
            try:
                await keep_up(core, entry, observation)
            except FlowManagerError as error:
                core.log.log_debug("a change could not be followed yet", container=entry.id, reason=error.message)
                return
            if core.table.get(entry.id) is not entry:
                return
        before = entry.observation
        was_lost = entry.lost
        if observation is None:
            entry.lost = True
            entry.stale = False
            entry.problem = "its container is gone from the runtime"
            if not was_lost:
                core.observer.flow_observed(entry, before, None, None)
                core.activity.log_container_lost(entry.ref)
                await core.channel.cleanup_socket(entry.id)
        else:
            core.observe(entry, observation, entry.end_cause)
            if not observation.running:
                entry.stopped_outside = False  # told as the cause
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
                stopped = "stop" if entry.end_cause == "stop" else None
                core.activity.log_container_died(
                    entry.ref, exit_code=now.exit_code, cause="oom" if now.oom_killed else stopped
                )
                await core.channel.cleanup_socket(entry.id)
        elif now.state == "paused":
            core.activity.log_container_paused(entry.ref, ACTOR)
        elif now.state == "running" and before.state == "paused":
            core.activity.log_container_unpaused(entry.ref, ACTOR)
        elif now.state == "running":
            await open_channel(core, entry)
            core.activity.log_container_started(entry.ref, ACTOR)


def _of_an_earlier_run(entry: FlowEntry, event: RuntimeEvent) -> bool:
    """News of an end that comes after the next start says nothing of what runs now."""
    began = entry.observation.started_at if entry.observation is not None else None
    return event.at is not None and began is not None and event.at < began


def _differs(entry: FlowEntry, found: Observation) -> bool:
    known = entry.observation
    made_anew = entry.record.adopted and entry.record.runtime_id != found.runtime_id
    return entry.stale or entry.lost or made_anew or known is None or known != found
