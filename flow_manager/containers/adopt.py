"""Adoption: containers that others made and labelled `flow-manager.enable=true`, or that settings name, become flows, and cease
to be.

What they ask for stands in their labels (`labels`) or in the settings (`declared`). A flow outlives its container: one that is made anew (`compose up`) has
the same flow's id, and its labels are read anew. One that is gone for longer than `FORGET_AFTER` is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flow_manager.containers import orphans
from flow_manager.containers.adopted import Adopted, become, stored
from flow_manager.containers.core import Core
from flow_manager.containers.declared import came_from_settings, key_for, wishes_for
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.labels import Unreadable, Wishes
from flow_manager.containers.placing import let_go
from flow_manager.containers.relabelled import changed, follows_labels, key_of, remembers
from flow_manager.contract.fields import RESERVED_LABEL_PREFIX
from flow_manager.contract.models import Deleted
from flow_manager.contract.principal import Principal
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.store.base import FlowRecord

# `compose down` and `up` again takes seconds; who makes a container anew within a minute means the same flow.
FORGET_AFTER = 60.0
RELEASED = "released"


async def adopt(core: Core, runtime: Runtime, seen: Observation) -> FlowEntry | None:
    """Make a flow of a container that others made; None when it is one already, was released, or is to be left alone.

    :raises SystemFailure: it can't be stored; the next look tries again.
    """
    if not seen.adopted:
        return await orphans.take_in(core, runtime, seen)
    if core.closing or core.table.get(seen.id) is not None:
        return None
    if core.adoptions.released.get(seen.id) == (runtime.name, seen.runtime_id):
        return None
    wishes = wishes_for(core, runtime, seen)
    if wishes.tenant is None:
        _leave_alone(core, seen, wishes)
        return None
    made: Adopted = become(core, runtime, seen, wishes, None)
    record = FlowRecord(
        id=seen.id,
        name=made.name,
        tenant=wishes.tenant,
        runtime=runtime.name,
        runtime_id=seen.runtime_id,
        config=stored(made.config),
        # Whoever labelled it wants it there on demand, whether it runs now or not.
        desired="running",
        created_at=seen.created_at or core.now(),
        adopted=True,
        request_key=key_for(core, runtime, seen) or key_of(seen.labels),
    )
    entry = FlowEntry(record, made.config, runtime, visible=False)
    core.table.add(entry)
    try:
        await core.store.save(record)
    except BaseException:
        core.table.discard(entry)
        raise
    core.adoptions.released.pop(entry.id, None)
    core.keep_secrets(entry, made.config)
    entry.visible = True
    core.observer.flow_added(entry)
    core.observe(entry, seen)
    core.activity.log_container_adopted(entry.ref, image=made.config.image, runtime=runtime.name, state=seen.state)
    _tell_of(core, entry, made.unreadable)
    core.tell(entry)
    return entry


async def keep_up(core: Core, entry: FlowEntry, seen: Observation) -> None:
    """Before what was seen of an adopted flow is taken in: is it the same container, and asked for in the same words?

    The flow may end by this (`core.table`): it is another tenant's then.

    :raises SystemFailure: it can't be stored; the next look tries again.
    """
    if not entry.record.adopted:
        return
    if (
        seen.runtime_id != entry.record.runtime_id
        or (entry.observation is None and _settings_differ(core, entry, seen))
        or changed(entry, seen.labels).any
    ):
        await follow(core, entry, seen)
    elif follows_labels(entry) and not remembers(entry.record):
        await core.record(entry, request_key=key_of(seen.labels))
    if core.table.get(entry.id) is entry:
        recognise(core, entry, seen)


def _settings_differ(core: Core, entry: FlowEntry, seen: Observation) -> bool:
    """At the first look after a start. What a client set since is kept where the labels count, not where the settings do."""
    key = key_for(core, entry.runtime, seen)
    if key is None:
        return came_from_settings(entry.record)
    wishes = wishes_for(core, entry.runtime, seen)
    made = become(core, entry.runtime, seen, wishes, entry)
    now = (entry.record.request_key, entry.record.tenant, entry.record.name, stored(entry.config))
    return now != (key, wishes.tenant, made.name, stored(made.config))


async def follow(core: Core, entry: FlowEntry, seen: Observation) -> None:
    """Another container has taken the place of the flow's, or its labels, or the settings, ask for something else: that counts
    now. One that was made anew is wanted again.

    :raises SystemFailure: it can't be stored; the next look tries again.
    """
    wishes = wishes_for(core, entry.runtime, seen)
    anew = seen.runtime_id != entry.record.runtime_id
    if wishes.tenant != entry.record.tenant:
        # Another tenant's flow, in truth: this one ends, and the next look adopts that one.
        await core.store.delete(entry.id)
        core.forget(entry)
        core.adoptions.lost_since.pop(entry.id, None)
        await adopt(core, entry.runtime, seen)
        return
    made = become(core, entry.runtime, seen, wishes, entry)
    edited = changed(entry, seen.labels)
    config = made.config
    if edited.any and not edited.of_sleep and not anew:
        # What a client set holds until the very lines that it stands for are changed.
        config = config.model_copy(update={"idle": entry.config.idle})
    key = key_for(core, entry.runtime, seen)
    if key is None:
        key = entry.record.request_key if entry.config.existing else key_of(seen.labels)
    record = replace(
        entry.record,
        name=made.name,
        runtime_id=seen.runtime_id,
        config=stored(config),
        desired="running" if anew else entry.record.desired,
        created_at=seen.created_at or entry.record.created_at,
        request_key=key,
    )
    await core.store.save(record)
    if core.table.get(entry.id) is not entry:
        await core.store.delete(entry.id)  # deleted meanwhile
        return
    core.masker.remove_environment(entry.config.environment)
    core.table.discard(entry)
    entry.record, entry.config = record, config
    core.table.add(entry)
    core.keep_secrets(entry, config)
    core.observer.policy_changed(entry)
    if anew:
        core.activity.log_user_activity(
            "container_recreated",
            f"flow *{made.name}*: its container was made anew by someone else",
            flow=entry.ref,
            details={"runtime_id": seen.runtime_id},
        )
    elif edited.any:
        core.activity.log_user_activity(
            "labels_changed",
            f"flow *{made.name}*: its container's lines were changed by someone else"
            f"{', also when it sleeps' if edited.of_sleep else ''}",
            flow=entry.ref,
            details={"idle": config.idle.model_dump(mode="json") if edited.of_sleep and config.idle else None},
        )
    _tell_of(core, entry, made.unreadable)


def recognise(core: Core, entry: FlowEntry, seen: Observation) -> None:
    """The first look after a restart: the environment is not stored, it is others' and may hold secrets."""
    if entry.record.adopted and not entry.config.environment and seen.environment:
        entry.config = entry.config.model_copy(update={"environment": dict(seen.environment)})
        core.keep_secrets(entry, entry.config)


async def release(core: Core, principal: Principal, entry: FlowEntry) -> Deleted:
    """Let go of it: the container stays as it is and is not managed any more, until it is made anew.

    :raises ContainerNotFound: it was deleted or released meanwhile.
    """

    async def body() -> None:
        # Remembered: its label still asks for it, and the next look must not take it back.
        await core.store.save(replace(entry.record, phase=RELEASED))
        core.adoptions.released[entry.id] = (entry.record.runtime, entry.record.runtime_id)
        core.adoptions.lost_since.pop(entry.id, None)
        core.forget(entry)
        await let_go(entry)
        await core.noted(core.activity.log_container_released(entry.ref, principal.name))

    await core.operate(entry, "delete", "release", principal, body)
    return Deleted(container_id=entry.id)


async def let_go_of(core: Core, entry: FlowEntry, actor: str) -> None:
    """Nobody asks for it any more (the tag, the lines, or the settings' entry was taken away): its container goes on without us.

    :raises SystemFailure: it can't be stored; the next look tries again.
    """
    await core.store.delete(entry.id)
    core.adoptions.lost_since.pop(entry.id, None)
    core.forget(entry)
    core.activity.log_container_released(entry.ref, actor)


async def forget_gone(core: Core, runtime: Runtime, there: Mapping[str, Observation]) -> None:
    """After a whole look at a runtime: forget adopted flows that are gone for good, and releases that mean nothing now."""
    adoptions = core.adoptions
    for flow_id, (name, _) in list(adoptions.released.items()):
        if name == runtime.name and flow_id not in there and core.table.get(flow_id) is None:
            del adoptions.released[flow_id]
            await core.store.delete(flow_id)
    for entry in core.table:
        if entry.runtime is not runtime or not entry.record.adopted:
            continue
        if not entry.lost or entry.id in there:
            adoptions.lost_since.pop(entry.id, None)
            continue
        since = adoptions.lost_since.setdefault(entry.id, core.clock.monotonic())
        if core.clock.monotonic() - since >= FORGET_AFTER and entry.operation is None:
            del adoptions.lost_since[entry.id]
            await core.store.delete(entry.id)
            core.forget(entry)


# --- what is said of it -----------------------------------------------------------------------------------------------


def _tell_of(core: Core, entry: FlowEntry, unreadable: tuple[Unreadable, ...]) -> None:
    for label in unreadable:
        core.activity.log_user_activity(
            "label_unreadable",
            f"flow *{entry.record.name}*: a label can't be read: {label}",
            flow=entry.ref,
            details={"label": f"{RESERVED_LABEL_PREFIX}{label.label}", "value": label.value, "reason": label.reason},
        )


def _leave_alone(core: Core, seen: Observation, wishes: Wishes) -> None:
    if seen.runtime_id in core.adoptions.left_alone:
        return
    core.adoptions.left_alone.add(seen.runtime_id)
    for label in wishes.unreadable:
        core.activity.log_user_activity(
            "label_unreadable",
            f"container *{seen.name}* is left alone: a label can't be read: {label}",
            details={"container": seen.name, "label": f"{RESERVED_LABEL_PREFIX}{label.label}", "reason": label.reason},
        )
