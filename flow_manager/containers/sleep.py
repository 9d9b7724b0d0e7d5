"""Putting a flow to sleep and waking it: what the watchers do, through the same locks, record and activity as everybody.

Sleep leaves `desired` alone: unlike a stopped flow, a sleeping one is still wanted, and wakes on demand.
"""

from __future__ import annotations

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.start import start_now
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import Principal
from flow_manager.errors import Conflict, Unsupported
from flow_manager.runtimes.base import Observation


async def sleep_now(
    core: Core, principal: Principal, entry: FlowEntry, *, reason: str, force: bool = False
) -> Observation | None:
    """Pause, stop or kill it, as its policy says; `force` kills. None: it slept already.

    :raises StopFailed, RuntimeUnavailable, Unsupported:
    """
    policy = entry.config.idle or IdlePolicy()
    method = "kill" if force else policy.stop_method
    if method == "pause" and not entry.runtime.capabilities.pause:
        raise Unsupported(
            f"the runtime '{entry.runtime.name}' can't pause", kind=entry.runtime.kind, capability="pause"
        )

    async def body() -> Observation | None:
        if entry.observation is not None and entry.observation.state not in ("running", "restarting", "paused"):
            return None
        if method == "pause":
            if entry.observation is not None and entry.observation.state == "paused":
                return None
            observation = await entry.runtime.pause(entry.id)
        elif method == "kill":
            observation = await entry.runtime.kill(entry.id)
        else:
            core.channel.announce_stopping(entry.id, policy.stop_timeout)
            observation = await entry.runtime.stop(entry.id, signal=policy.stop_signal, timeout=policy.stop_timeout)
        core.observe(entry, observation)
        # A sleeping flow's listener is closed, its folder kept; a paused one keeps its connection.
        if method != "pause":
            await core.channel.cleanup_socket(entry.id)
        await core.noted(
            core.activity.log_user_activity(
                "napped",
                f"flow *{entry.record.name}* fell asleep: {reason}",
                flow=entry.ref,
                actor=principal.name,
                details={"reason": reason, "method": method},
            )
        )
        return observation

    return await core.operate(entry, "sleep", (method,), principal, body)


async def wake_now(core: Core, principal: Principal, entry: FlowEntry, *, clear_stopped: bool) -> Observation:
    """Start it, or let it go on; one that runs is left as it is. Readiness is the watcher's to wait for.

    `clear_stopped`: a person asked for it; traffic alone doesn't wake what somebody stopped.

    :raises Conflict: when somebody stopped it and traffic asks. :raises StartFailed, PortInUse, RuntimeUnavailable:
    """

    async def body() -> Observation:
        if entry.record.desired == "stopped" and not clear_stopped:
            raise Conflict("somebody stopped this flow: start it first", desired="stopped", operation="stop")
        state = entry.observation.state if entry.observation is not None else None
        if state == "running" and not entry.stale:
            assert entry.observation is not None
            return entry.observation
        return await start_now(core, entry)

    return await core.operate(entry, "wake", (clear_stopped,), principal, body)
