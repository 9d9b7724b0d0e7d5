"""Ending a flow's run: stop, kill and restart."""

from __future__ import annotations

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.start import start_now, tell_started
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import KillContainer, RestartContainer, StopContainer
from flow_manager.errors import ContainerStopped, FlowManagerError, StopFailed
from flow_manager.runtimes.base import Observation

DEFAULT_GRACE = 10.0


async def stop(core: Core, principal: Principal, request: StopContainer) -> ContainerStatus:
    """Stop it, or leave it stopped; it stays so until somebody starts it.

    :raises StopFailed, RuntimeUnavailable:
    """
    entry = core.table.resolve(principal, request.container_id)

    async def body() -> None:
        ran, wanted = entry.running, entry.record.desired
        try:
            # Recorded while it stops, not after: should the manager die in between, the flow must not be brought back.
            observation = await core.while_recording(
                entry, stop_now(core, entry, signal=request.signal, timeout=request.timeout), desired="stopped"
            )
        except StopFailed:
            # Its watcher tries again, harder, until it has stopped: that is still what is wanted.
            await core.record(entry, desired="stopped")
            raise
        except FlowManagerError:
            await core.record(entry, desired=wanted)
            raise
        if ran:
            await core.noted(
                core.activity.log_container_stopped(entry.ref, principal.name, exit_code=observation.exit_code)
            )

    return await core.change(entry, "stop", (request.signal, request.timeout), principal, body)


async def restart(core: Core, principal: Principal, request: RestartContainer) -> ContainerStatus:
    """Stop it when it runs, then start it.

    :raises StopFailed, StartFailed, PortInUse, RuntimeUnavailable:
    """
    entry = core.table.resolve(principal, request.container_id)

    async def body() -> None:
        await stop_now(core, entry, signal=None, timeout=request.timeout)
        await start_now(core, entry)
        await tell_started(core, entry, core.activity.log_container_restarted(entry.ref, principal.name))

    return await core.change(entry, "restart", request.timeout, principal, body)


async def kill(core: Core, principal: Principal, request: KillContainer) -> ContainerStatus:
    """Send a signal now. SIGKILL ends what is under way on this flow; other signals are sent beside it.

    :raises ContainerStopped: when it does not run.
    """
    entry = core.table.resolve(principal, request.container_id)
    signal = request.signal if request.signal.startswith("SIG") else f"SIG{request.signal}"
    if signal != "SIGKILL":
        core.refuse_when_closing()
        core.observe(entry, await entry.runtime.kill(entry.id, signal))
        await core.noted(core.activity.log_container_killed(entry.ref, principal.name, signal=signal))
        core.tell(entry)
        return core.status(entry)

    async def body() -> None:
        if entry.observation is not None and not entry.running and not entry.stale:
            # Looked at once more: the answer must not come from a memory that an event has yet to correct.
            core.observe(entry, await entry.runtime.inspect(entry.id))
            if not entry.running:
                raise ContainerStopped("the flow does not run", state=core.status(entry).state)
        await core.record(entry, desired="stopped")
        core.observe(entry, await entry.runtime.kill(entry.id, signal))
        await core.channel.cleanup_socket(entry.id)
        await core.noted(core.activity.log_container_killed(entry.ref, principal.name, signal=signal))

    return await core.change(entry, "kill", signal, principal, body, preempt=True)


async def stop_now(core: Core, entry: FlowEntry, *, signal: str | None, timeout: float | None) -> Observation:
    idle = entry.config.idle
    grace = timeout if timeout is not None else (idle.stop_timeout if idle else DEFAULT_GRACE)
    core.channel.announce_stopping(entry.id, grace)
    observation = await entry.runtime.stop(
        entry.id, signal=signal or (idle.stop_signal if idle else None), timeout=grace
    )
    core.observe(entry, observation)
    entry.problem = None
    await core.channel.cleanup_socket(entry.id)
    return observation
