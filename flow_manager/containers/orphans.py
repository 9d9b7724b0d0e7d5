"""Containers of this very manager of which it has no record: its store was lost, or a create was given up half-way.

They carry who they are in their labels, so one that was there before this manager started becomes a flow again, or is
removed, as `policy.orphans` says. One that appeared since is what an aborted create has left (an engine may make it after
nobody wants it any more), and is removed.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from flow_manager.containers.channels import channel_folder, open_channel
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry, packed
from flow_manager.contract.fields import NAME_PATTERN, RESERVED_LABEL_PREFIX
from flow_manager.contract.models import ContainerConfig
from flow_manager.contract.principal import DEFAULT_TENANT, MANAGER
from flow_manager.errors import ContainerNotFound, FlowManagerError
from flow_manager.runtimes.base import LABEL_NAME, LABEL_TENANT, Observation, Runtime
from flow_manager.store.base import FlowRecord

# What an image that is no reference any more is shown as.
NO_IMAGE = "unknown"


async def take_in(core: Core, runtime: Runtime, seen: Observation) -> FlowEntry | None:
    """Make a flow of it again, or remove it. None: nothing became of it, or it is none.

    :raises FlowManagerError: not now; the next look tries again.
    """
    if seen.adopted or core.closing or _known(core, seen.id):
        return None
    try:
        # What a list has said may be gone since: deleted by us, in order, while the list was on its way.
        seen = await runtime.inspect(seen.id)
    except ContainerNotFound:
        return None
    if _known(core, seen.id):
        return None
    leftover = core.started_at is not None and seen.created_at is not None and seen.created_at >= core.started_at
    if leftover or core.settings.policy.orphans == "remove":
        await _remove(core, runtime, seen)
        return None
    return await _take(core, runtime, seen)


def _known(core: Core, flow_id: str) -> bool:
    return core.table.get(flow_id) is not None or flow_id in core.unfinished


async def _remove(core: Core, runtime: Runtime, seen: Observation) -> None:
    await runtime.remove(seen.id, force=True)
    name = seen.labels.get(LABEL_NAME, seen.name)
    core.activity.log_user_activity(
        "container_deleted",
        f"a container of flow *{name}*, of which nothing is known here any more, was removed",
        tenant=seen.labels.get(LABEL_TENANT, DEFAULT_TENANT),
        actor=MANAGER.name,
        details={"runtime_id": seen.runtime_id, "orphan": True},
    )


async def _take(core: Core, runtime: Runtime, seen: Observation) -> FlowEntry:
    tenant = seen.labels.get(LABEL_TENANT) or DEFAULT_TENANT
    config = _config(core, runtime, seen)
    record = FlowRecord(
        id=seen.id,
        name=_name(core, tenant, seen),
        tenant=tenant,
        runtime=runtime.name,
        runtime_id=seen.runtime_id,
        config=packed(config),
        desired="running" if seen.running or config.idle is not None else "stopped",
        created_at=seen.created_at or core.now(),
    )
    entry = FlowEntry(record, config, runtime, visible=False)
    core.table.add(entry)
    try:
        await core.store.save(record)
        if channel_folder(core.channel, entry) is not None:
            await core.channel.prepare_folder(entry.id)
        if seen.state == "running":
            # It went on without us: it finds its socket made anew and connects again.
            await open_channel(core, entry)
    except BaseException:
        core.table.discard(entry)
        raise
    core.keep_secrets(entry, config)
    entry.visible = True
    core.observer.flow_added(entry)
    core.observe(entry, seen)
    core.activity.log_container_adopted(
        entry.ref, image=config.image, runtime=runtime.name, state=seen.state, orphan=True
    )
    core.tell(entry)
    return entry


def _name(core: Core, tenant: str, seen: Observation) -> str:
    for name in (seen.labels.get(LABEL_NAME), seen.name):
        if name and NAME_PATTERN.match(name) and core.table.named(tenant, name) is None:
            return name
    return f"flow-{seen.id}"


def _config(core: Core, runtime: Runtime, seen: Observation) -> ContainerConfig:
    """What can be known of what was asked for. Its environment can't: the runtime keeps that to itself."""
    wishes: dict[str, Any] = {
        "image": seen.image or NO_IMAGE,
        "runtime": runtime.name,
        "labels": {key: value for key, value in seen.labels.items() if not key.startswith(RESERVED_LABEL_PREFIX)},
        "ports": dict.fromkeys(seen.ports, 0),
    }
    if core.code.folder(seen.id).is_dir():
        wishes["code_path"] = str(core.code.folder(seen.id))
    if hosts := seen.labels.get("flow-manager.hosts"):
        wishes["hosts"] = hosts.split(",")
    if port := seen.labels.get("flow-manager.port"):
        wishes["port"] = int(port) if port.isdigit() else port
    if idle := seen.labels.get("flow-manager.idle"):
        try:
            wishes["idle"] = json.loads(idle)
        except ValueError:
            core.log.log_notice("an orphan's idle policy can't be read", warning=True, container=seen.id)
    while True:
        try:
            return ContainerConfig.model_validate(wishes)
        except ValidationError as error:
            # A label that somebody has spoilt costs that wish, never the flow.
            spoilt = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
            if "image" in spoilt:
                wishes["image"] = NO_IMAGE
                spoilt.discard("image")
            elif not spoilt & wishes.keys():
                raise FlowManagerError(f"an orphan can't be described: {error}") from None
            for field in spoilt:
                wishes.pop(field, None)
