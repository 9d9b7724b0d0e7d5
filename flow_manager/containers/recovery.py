"""At start: the store's records become flows again, and what a dead manager left half-done is finished or undone."""

from __future__ import annotations

from pydantic import ValidationError

from flow_manager.containers.adopt import RELEASED, adopt, keep_up, let_go_of
from flow_manager.containers.channels import open_channel
from flow_manager.containers.code_swap import UPDATING, recover_update
from flow_manager.containers.core import Core
from flow_manager.containers.create import undo
from flow_manager.containers.declared import came_from_settings, missing, still_declared
from flow_manager.containers.delete import leave_nothing
from flow_manager.containers.entry import FlowEntry, unpacked
from flow_manager.containers.reconcile import ACTOR
from flow_manager.contract.principal import MANAGER
from flow_manager.errors import ContainerNotFound, FlowManagerError
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.util.ids import new_short_id


async def recover(core: Core) -> None:
    """Bring records and runtimes together. A runtime that does not answer leaves its flows as last known, `stale`."""
    entries: list[FlowEntry] = []
    await core.code.sweep()
    for record in await core.store.all():
        if record.phase == RELEASED:
            core.adoptions.released[record.id] = (record.runtime, record.runtime_id)
            continue
        runtime = core.runtimes.get(record.runtime)
        if runtime is None:
            core.log.log_notice(
                "a flow's runtime isn't configured: left alone",
                warning=True,
                container=record.id,
                runtime=record.runtime,
            )
            continue
        try:
            config = unpacked(record.config)
        except ValidationError as error:
            core.log.log_error(new_short_id("err"), error, operation="recover", container=record.id)
            continue
        entry = FlowEntry(record, config, runtime, stale=True, visible=record.phase in ("created", UPDATING))
        core.keep_secrets(entry, config)
        core.table.add(entry)
        entries.append(entry)
    for entry in entries:
        if entry.visible:
            core.observer.flow_added(entry)
    for runtime in core.runtimes.values():
        await _recover_runtime(core, runtime, [entry for entry in entries if entry.runtime is runtime])


async def _recover_runtime(core: Core, runtime: Runtime, entries: list[FlowEntry]) -> None:
    try:
        found = {observation.id: observation for observation in await runtime.list()}
    except FlowManagerError as error:
        if entries:
            core.activity.log_runtime_unavailable(runtime.name, error.message)
        return
    for entry in entries:
        if entry.record.phase == "creating":
            await undo(core, entry)
            core.activity.log_operation_recovered(entry.ref, "create", outcome="undone")
        elif entry.record.phase == "deleting":
            await _finish_delete(core, entry, found.get(entry.id))
        elif entry.record.phase == UPDATING:
            await _undo_update(core, entry, found.get(entry.id))
        else:
            await _find_again(core, entry, found.get(entry.id))
    for observation in found.values():
        try:
            await adopt(core, runtime, observation)
        except FlowManagerError as error:
            core.log.log_error(new_short_id("err"), error, operation="adopt", container=observation.id)
    for flow in missing(core, runtime, list(found.values())):
        core.log.log_notice(
            "no such container: it is managed as soon as there is one",
            warning=True,
            setting="flows",
            container=flow.place,
            runtime=runtime.name,
        )


async def _finish_delete(core: Core, entry: FlowEntry, found: Observation | None) -> None:
    # One that others have made anew meanwhile is not what somebody wanted to be deleted.
    replaced = entry.record.adopted and found is not None and found.runtime_id != entry.record.runtime_id
    try:
        if not replaced:
            await entry.runtime.remove(entry.id, force=True)
    except FlowManagerError as error:
        # Stays out of sight, and is tried again at the next start.
        core.log.log_debug("a flow can't be removed yet", container=entry.id, reason=error.message)
        return
    await leave_nothing(core, entry)
    core.activity.log_container_deleted(entry.ref, MANAGER.name)
    core.activity.log_operation_recovered(entry.ref, "delete", outcome="done")


async def _undo_update(core: Core, entry: FlowEntry, found: Observation | None) -> None:
    try:
        await recover_update(core, entry)
        found = await entry.runtime.inspect(entry.id)
    except FlowManagerError as error:
        core.log.log_error(new_short_id("err"), error, operation="update", container=entry.id)
    await _find_again(core, entry, found)


async def _find_again(core: Core, entry: FlowEntry, found: Observation | None) -> None:
    if found is None and came_from_settings(entry.record) and not still_declared(core, entry.runtime, entry.record):
        # Nobody asks for it any more, so that its runtime doesn't show it: it goes on without us.
        await let_go_of(core, entry, MANAGER.name)
        return
    if found is None:
        try:
            # Who lists may leave out what can't be seen just now, or is there and asks for nobody any more.
            found = await entry.runtime.inspect(entry.id)
        except ContainerNotFound as error:
            if entry.record.adopted and error.details.get("left_alone"):
                await let_go_of(core, entry, ACTOR)
                return
        except FlowManagerError as error:
            core.log.log_debug("a flow could not be inspected", container=entry.id, reason=error.message)
            return
    if found is None:
        entry.lost, entry.stale = True, False
        entry.problem = "its container is gone from the runtime"
        core.activity.log_container_lost(entry.ref)
        return
    await keep_up(core, entry, found)
    if core.table.get(entry.id) is not entry:
        return
    core.observe(entry, found)
    try:
        core.observe(entry, await entry.runtime.inspect(entry.id))
    except FlowManagerError as error:
        core.log.log_debug("a flow could not be inspected", container=entry.id, reason=error.message)
    await _tell_what_was_missed(core, entry)
    if entry.running:
        # The flow went on without us: it finds its socket made anew, or its port, and connects again.
        await open_channel(core, entry)


# The newest of these tells what people believe of a flow.
_RUNS = frozenset({"container_started", "container_restarted", "container_unpaused", "woke"})
_RUNS_NOT = frozenset({"container_created", "container_stopped", "container_killed", "container_died", "napped"})


async def _tell_what_was_missed(core: Core, entry: FlowEntry) -> None:
    """What happened while no manager was there is told now: who follows activity must not believe a dead flow alive."""
    found = entry.observation
    believed = await core.activity.last_type(entry.ref, sorted(_RUNS | _RUNS_NOT))
    if found is None or believed is None:
        return
    if believed in _RUNS and found.state in ("exited", "stopped", "dead"):
        cause = "oom" if found.oom_killed else None
        core.activity.log_container_died(entry.ref, exit_code=found.exit_code, cause=cause)
    elif believed in _RUNS_NOT and found.state == "running":
        core.activity.log_container_started(entry.ref, ACTOR)
