"""Freezing a flow and letting it go on."""

from __future__ import annotations

from flow_manager.containers.core import Core
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import ChangeContainer
from flow_manager.errors import FlowManagerError, Unsupported


async def pause(core: Core, principal: Principal, request: ChangeContainer) -> ContainerStatus:
    """:raises ContainerStopped: when it does not run. :raises Unsupported: where the runtime can't."""
    entry = core.table.resolve(principal, request.container_id)
    _check(core, request, principal)

    async def body() -> None:
        was = entry.observation.state if entry.observation else None
        wanted = entry.record.desired
        await core.record(entry, desired="stopped")
        try:
            core.observe(entry, await entry.runtime.pause(entry.id))
        except FlowManagerError:
            # As with a failed stop: a flow that sleeps, say, must wake for traffic as before.
            await core.record(entry, desired=wanted)
            raise
        if was != "paused":
            await core.noted(core.activity.log_container_paused(entry.ref, principal.name))

    return await core.change(entry, "pause", None, principal, body)


async def unpause(core: Core, principal: Principal, request: ChangeContainer) -> ContainerStatus:
    """:raises ContainerStopped: when it does not run. :raises Unsupported: where the runtime can't."""
    entry = core.table.resolve(principal, request.container_id)
    _check(core, request, principal)

    async def body() -> None:
        was = entry.observation.state if entry.observation else None
        core.observe(entry, await entry.runtime.unpause(entry.id))
        await core.record(entry, desired="running")
        if was == "paused":
            await core.noted(core.activity.log_container_unpaused(entry.ref, principal.name))

    return await core.change(entry, "unpause", None, principal, body)


def _check(core: Core, request: ChangeContainer, principal: Principal) -> None:
    runtime = core.table.resolve(principal, request.container_id).runtime
    if not runtime.capabilities.pause:
        raise Unsupported(f"the runtime '{runtime.name}' can't pause", kind=runtime.kind, capability="pause")
