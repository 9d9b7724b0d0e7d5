"""Putting a flow to sleep and waking it: what the watchers do, through the same locks, record and activity as everybody.

Sleep leaves `desired` alone: unlike a stopped flow, a sleeping one is still wanted, and wakes on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.start import start_now
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import Principal
from flow_manager.errors import Conflict, StopFailed, Unsupported
from flow_manager.runtimes.base import Observation

# A stop has failed when the engine has not brought it about so many seconds after the grace.
STOP_MARGIN = 10.0


async def sleep_now(
    core: Core,
    principal: Principal,
    entry: FlowEntry,
    *,
    reason: str,
    force: bool = False,
    still_idle: Callable[[], bool] = lambda: True,
) -> Observation | None:
    """Pause, stop or kill it, as its policy says; `force` kills. None: it slept already, or is in use again.

    `still_idle` is asked under the lock, right before anything is done: a request that came in between wins, in silence.

    :raises StopFailed: also when it outlasts its grace by 10 s. :raises RuntimeUnavailable, Unsupported:
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
        if method == "pause" and entry.observation is not None and entry.observation.state == "paused":
            return None
        if not still_idle():
            return None
        try:
            async with asyncio.timeout(policy.stop_timeout + STOP_MARGIN):
                observation = await _end(core, entry, method, policy)
        except TimeoutError:
            raise StopFailed(
                f"it outlasted its grace of {policy.stop_timeout:g} s by {STOP_MARGIN:g} s", operation="sleep"
            ) from None
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


async def _end(core: Core, entry: FlowEntry, method: str, policy: IdlePolicy) -> Observation:
    if method == "pause":
        return await entry.runtime.pause(entry.id)
    if method == "kill":
        return await entry.runtime.kill(entry.id)
    core.channel.announce_stopping(entry.id, policy.stop_timeout)
    return await entry.runtime.stop(entry.id, signal=policy.stop_signal, timeout=policy.stop_timeout)


async def wake_now(
    core: Core,
    principal: Principal,
    entry: FlowEntry,
    *,
    clear_stopped: bool,
    still_wanted: Callable[[], bool] = lambda: True,
) -> Observation | None:
    """Start it, or let it go on; one that runs is left as it is. Readiness is the watcher's to wait for.

    `clear_stopped`: a person asked for it; traffic alone doesn't wake what somebody stopped. `still_wanted` is asked under the
    lock: a wake that was given up while it queued (a kill went first) starts nothing, and None is returned.

    :raises Conflict: when somebody stopped it and traffic asks. :raises StartFailed, PortInUse, RuntimeUnavailable:
    """

    async def body() -> Observation | None:
        if not still_wanted():
            return None
        state = entry.observation.state if entry.observation is not None else None
        # One with a policy is wanted from its creation on, so one that isn't was stopped; of one without, that was made and
        # never started, nobody can say so.
        never_ran = state == "created" and entry.config.idle is None
        stopped = entry.stopped_outside or (entry.record.desired == "stopped" and not never_ran)
        if stopped and not clear_stopped:
            raise Conflict("somebody stopped this flow: start it first", desired="stopped", operation="stop")
        if state == "running" and not entry.stale:
            assert entry.observation is not None
            if clear_stopped:
                await core.record(entry, desired="running")
            return entry.observation
        return await start_now(core, entry)

    return await core.operate(entry, "wake", (clear_stopped,), principal, body)
