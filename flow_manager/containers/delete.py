"""Removing a flow and all that it left: container, socket, folder, code, record."""

from __future__ import annotations

from flow_manager.containers.adopt import release
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import Deleted
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import DeleteContainer
from flow_manager.errors import ContainerRunning


async def delete(core: Core, principal: Principal, request: DeleteContainer) -> Deleted:
    """One that others made is only released, unless `force`.

    :raises ContainerRunning: when it runs and `force` is False; with `force`, what is under way is ended.
    """
    entry = core.table.resolve(principal, request.container_id)
    if entry.record.adopted and not request.force:
        return await release(core, principal, entry)

    async def body() -> None:
        if not request.force and entry.running:
            raise ContainerRunning(
                "the flow runs: stop it first, or force", state=core.status(entry).state, operation="delete"
            )
        # A manager that dies from here on finishes the removal at its next start: what is deleted stays deleted.
        await core.record(entry, phase="deleting")
        try:
            await entry.runtime.remove(entry.id, force=request.force)
        except BaseException:
            await core.record(entry, phase="created")
            raise
        await leave_nothing(core, entry)
        await core.noted(core.activity.log_container_deleted(entry.ref, principal.name))

    await core.operate(entry, "delete", request.force, principal, body, preempt=request.force)
    return Deleted(container_id=entry.id)


async def leave_nothing(core: Core, entry: FlowEntry) -> None:
    """Remove what the manager itself keeps of a flow whose container is gone."""
    await core.channel.cleanup_socket(entry.id, remove_folder=True)
    await core.code.remove(entry.id)
    await core.store.delete(entry.id)
    core.forget(entry)
