"""Making a flow. A create that fails, at whichever step, leaves nothing: no container, folder, socket or record."""

from __future__ import annotations

import asyncio
from typing import Any

from flow_manager.containers.adopt import recognise
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry, packed
from flow_manager.containers.hosts import host_is_taken
from flow_manager.containers.placing import let_go, new_id, runtime_for, take_on
from flow_manager.containers.policy import image_of
from flow_manager.containers.repeats import KEEP, request_key
from flow_manager.containers.spec import spec_of
from flow_manager.containers.start import start_now, tell_started
from flow_manager.contract.models import ContainerConfig, ContainerInfo
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import CreateContainer
from flow_manager.errors import FlowManagerError, NameConflict, QuotaExceeded
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.store.base import FlowRecord, StoredActivity


async def create(core: Core, principal: Principal, request: CreateContainer) -> ContainerInfo:
    """:raises NameConflict, ImageNotFound, PathNotAllowed, QuotaExceeded…: and nothing is left."""
    core.refuse_when_closing()
    key = request_key(principal, request.request_id) if request.request_id else None
    if key is not None and (made := _made_by(core, key)) is not None:
        # The reply of the first attempt was lost in a crash; what it made is here.
        return core.info(made)
    config = request.config()
    runtime = runtime_for(core, config)
    identity: tuple[Any, ...] = (principal, request.model_dump_json(exclude={"request_id"}))
    entry = _namesake(core, principal, config, runtime, identity)
    if entry is None:
        _check_quota(core, principal)
        _check_hosts(core, config, runtime)
        entry = _reserve(core, principal, config, runtime, key)
    making = entry
    return await core.operate(
        entry, "create", identity, principal, lambda: _make(core, making, principal, start=request.start)
    )


def _made_by(core: Core, key: str) -> FlowEntry | None:
    for entry in core.table:
        if entry.record.request_key == key and entry.visible and core.now() - entry.record.created_at < KEEP:
            return entry
    return None


def _namesake(
    core: Core, principal: Principal, config: ContainerConfig, runtime: Runtime, identity: tuple[Any, ...]
) -> FlowEntry | None:
    """The flow with this name that an identical create is making right now, to be joined.

    :raises NameConflict: when the name is taken otherwise.
    """
    if config.name is None:
        return None
    taken = core.table.named(principal.tenant, config.name)
    if taken is None:
        return None
    if core.locks.joinable(taken.id, "create", identity):
        return taken
    raise NameConflict(f"the name '{config.name}' is taken", kind=runtime.kind, name=config.name)


def _check_quota(core: Core, principal: Principal) -> None:
    limit = core.settings.policy.max_flows
    if limit is not None and core.table.count(principal.tenant) >= limit:
        raise QuotaExceeded(f"the tenant has its {limit} flows already", limit=limit)


def _check_hosts(core: Core, config: ContainerConfig, runtime: Runtime) -> None:
    """:raises NameConflict: in words that say nothing of whose flow has that host."""
    for host in config.hosts:
        if host_is_taken(core, host, config.name):
            raise NameConflict(f"the host '{host}' is taken", kind=runtime.kind, host=host)


def _reserve(core: Core, principal: Principal, config: ContainerConfig, runtime: Runtime, key: str | None) -> FlowEntry:
    """Take the id and the name before anything else, so that two creates can't both have it."""
    flow_id = new_id(core, config, runtime)
    record = FlowRecord(
        id=flow_id,
        name=config.name or f"flow-{flow_id}",
        tenant=principal.tenant,
        runtime=runtime.name,
        runtime_id=None,
        config=packed(config),
        # One with a policy is wanted from the beginning: the first request wakes it.
        desired="stopped" if config.idle is None else "running",
        created_at=core.now(),
        phase="creating",
        request_key=key,
        # One that others made is never removed when something fails here.
        adopted=config.existing,
    )
    entry = FlowEntry(record, config, runtime, visible=False)
    core.keep_secrets(entry, config)
    core.table.add(entry)
    return entry


async def _make(core: Core, entry: FlowEntry, principal: Principal, *, start: bool) -> ContainerInfo:
    try:
        await _steps(core, entry, principal, start=start)
    except BaseException:
        # Shielded: a pre-empting kill or the shutdown must not interrupt the clean-up either.
        await core.carried.through(undo(core, entry))
        raise
    return core.info(entry)


async def _steps(core: Core, entry: FlowEntry, principal: Principal, *, start: bool) -> None:
    config = entry.config
    # Judged before anything is made.
    core.check_policy(entry.candidate, config.idle)
    source = core.policy.code_source(config.code_path) if config.code_path else None
    spec = spec_of(core, entry, code=source is not None)
    await core.store.save(entry.record)
    if source is not None:
        await core.code.put(entry.id, source)
    if spec.channel_folder is not None:
        await core.channel.prepare_folder(entry.id)

    def progress(text: str) -> None:
        core.activity.log_image_pulling(entry.ref, principal.name, text)

    observation = await entry.runtime.create(spec, progress)
    if config.existing:
        take_on(core, entry, observation)
        recognise(core, entry, observation)
    core.observe(entry, observation)
    await core.record(entry, phase="created", runtime_id=observation.runtime_id)
    if start:
        await start_now(core, entry)
    entry.visible = True
    core.observer.flow_added(entry)
    await core.noted(_entry_of(core, entry, principal, observation))
    if start:
        await tell_started(core, entry, core.activity.log_container_started(entry.ref, principal.name))


def _entry_of(core: Core, entry: FlowEntry, principal: Principal, seen: Observation) -> asyncio.Future[StoredActivity]:
    image, runtime = image_of(entry.config), entry.runtime.name
    if entry.record.adopted:
        return core.activity.log_container_adopted(entry.ref, image=image, runtime=runtime, state=seen.state)
    return core.activity.log_container_created(entry.ref, principal.name, image=image, runtime=runtime)


async def undo(core: Core, entry: FlowEntry) -> None:
    """Remove whatever a create has made so far. What a runtime that is away keeps is removed when it is back."""
    core.forget(entry)
    core.unfinished[entry.id] = entry
    try:
        if entry.record.adopted:
            await let_go(entry)
        else:
            await entry.runtime.remove(entry.id, force=True)
        await core.channel.cleanup_socket(entry.id, remove_folder=True)
        await core.code.remove(entry.id)
        await core.store.delete(entry.id)
    except (FlowManagerError, OSError) as error:
        core.log.log_debug("what a failed create left can't be removed yet", container=entry.id, reason=str(error))
        return
    core.unfinished.pop(entry.id, None)
