"""Starting a flow: its channel listens before its first instruction runs."""

from __future__ import annotations

import asyncio

from flow_manager.containers.channels import open_channel
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.ready import wait_ready
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import StartContainer
from flow_manager.runtimes.base import Observation
from flow_manager.store.base import StoredActivity


async def start(core: Core, principal: Principal, request: StartContainer) -> ContainerStatus:
    """Start it, or leave it running; with `wait: "ready"` return when its health says so.

    :raises StartFailed, PortInUse, RuntimeUnavailable, OperationTimeout:
    """
    entry = core.table.resolve(principal, request.container_id)

    async def body() -> None:
        ran = entry.observation is not None and entry.observation.state in ("running", "restarting")
        await start_now(core, entry)
        if not ran:
            await tell_started(core, entry, core.activity.log_container_started(entry.ref, principal.name))

    status = await core.change(entry, "start", None, principal, body)
    if request.wait == "ready":
        # Outside the lock: a stop must be able to end the wait.
        await wait_ready(core, entry)
        return core.status(entry)
    return status


async def start_now(core: Core, entry: FlowEntry) -> Observation:
    """Listen, start, and remember that it is wanted. The caller holds the lock."""
    await open_channel(core, entry)
    entry.problem = None
    entry.stopped_outside = False  # whoever stopped it before: now it is started
    try:
        observation = await core.while_recording(entry, entry.runtime.start(entry.id), desired="running")
    except BaseException as error:
        entry.problem = core.masker.mask_text(str(error))
        await core.channel.cleanup_socket(entry.id)
        raise
    core.observe(entry, observation)
    return observation


async def tell_started(core: Core, entry: FlowEntry, storing: asyncio.Future[StoredActivity]) -> None:
    """The entry of a start; and of its end, when the program was quicker than our first look at it."""
    await core.noted(storing)
    seen = entry.observation
    if seen is not None and not seen.running:
        await core.noted(
            core.activity.log_container_died(
                entry.ref, exit_code=seen.exit_code, cause="oom" if seen.oom_killed else None
            )
        )
        await core.channel.cleanup_socket(entry.id)
