"""Starting a flow: its channel listens before its first instruction runs."""

from __future__ import annotations

import asyncio

from flow_manager.containers.channels import open_channel
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import StartContainer
from flow_manager.errors import ContainerStopped, OperationTimeout, StartFailed
from flow_manager.runtimes.base import Observation
from flow_manager.store.base import StoredActivity

# How long `wait: "ready"` waits for a flow without an idle policy (the policy's wake_timeout has the same default).
READY_TIMEOUT = 180.0


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


async def wait_ready(core: Core, entry: FlowEntry) -> None:
    """Wait until the flow is ready: its policy's checks, else its image's, else its port, else that it runs.

    :raises ContainerStopped: when it ends meanwhile. :raises StartFailed: when its watcher gives it up, with the reason.
    :raises OperationTimeout: naming what it waited for.
    """
    limit = entry.config.idle.wake_timeout if entry.config.idle else READY_TIMEOUT
    changed = asyncio.Event()

    def on_status(_tenant: str, status: ContainerStatus) -> None:
        if status.id == entry.id:
            changed.set()

    core.status_listeners.append(on_status)
    try:
        async with asyncio.timeout(limit):
            while True:
                changed.clear()
                status = core.status(entry)
                if status.state not in ("running", "restarting"):
                    raise ContainerStopped(
                        f"the flow is {status.state}", state=status.state, exit_code=status.exit_code
                    )
                if status.flow_state == "ready":
                    return
                if status.flow_state == "error":
                    reason = status.error or "it never became ready"
                    raise StartFailed(f"the flow is not ready: {reason}", reason=reason, exit_code=status.exit_code)
                await changed.wait()
    except TimeoutError:
        raise OperationTimeout(
            f"not ready after {limit:g} s", operation="start", waited_for="readiness", timeout=limit
        ) from None
    finally:
        core.status_listeners.remove(on_status)
