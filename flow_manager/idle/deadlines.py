"""When something is due for a flow, and what is done then: all of it in fields, looked at by the one wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.idle import liveness, needs, sleeping
from flow_manager.idle.wheel import NEVER

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

# A flow that the manager finds running again after a restart gets at least so many seconds (or its idle_timeout).
FOUND_GRACE = 10.0
# A last use so many seconds ahead is one that the wall clock made, not a flow that says it is busy.
CLOCKS_DIFFER = 1.0


def sleeps_at(watcher: Watcher) -> float | None:
    """When the idle timeout is due, on the monotonic clock; None: it isn't, as things are."""
    if watcher.state != "ready" or not watcher.leases.idle_timeout:
        return None
    at = watcher.leases.sleeps_at(watcher.leases.idle_timeout)
    return None if at is None else max(at, watcher.sleep_at, watcher.keeper.not_before)


def rearm(watcher: Watcher) -> None:
    """Ask the wheel for the next thing that is due."""
    at = min(watcher.probe_at if watcher.state == "ready" else NEVER, watcher.linger_at)
    if watcher.state == "stopping":
        at = min(at, watcher.stop_at)
    elif not watcher.sleeping and (idle_at := sleeps_at(watcher)) is not None:
        at = min(at, idle_at)
    if at != NEVER:
        watcher.keeper.wheel.arm(watcher, at)
    else:
        watcher.keeper.wheel.disarm(watcher)


def due(watcher: Watcher, now: float) -> None:
    if watcher.keeper.closing:
        return
    if watcher.linger_at <= now:
        needs.let_go(watcher)
    if watcher.state == "ready":
        if watcher.probe_at <= now:
            liveness.begin(watcher)
        idle_at = sleeps_at(watcher)
        if idle_at is not None and idle_at <= now and not watcher.sleeping:
            sleeping.begin(watcher)
    elif watcher.state == "stopping" and watcher.stop_at <= now:
        sleeping.try_again(watcher)
    rearm(watcher)


def restore(watcher: Watcher, now: float) -> None:
    """An own flow goes on from where it was, an adopted one from the beginning; neither stops at once.

    What had said that it is busy is so still: its use ends in the future.
    """
    last, policy, keeper = watcher.entry.record.last_used_at, watcher.policy, watcher.keeper
    if last is None or policy is None or watcher.entry.record.adopted:
        return
    elapsed = (keeper.clock.now() - last).total_seconds()
    if elapsed < -CLOCKS_DIFFER:
        # Bounded: a wall clock that was set back must not keep it awake for a year.
        watcher.leases.busy(min(-elapsed, keeper.core.settings.channel.max_busy), "said before the manager's restart")
    elapsed = max(0.0, elapsed)
    grace = min(policy.idle_timeout, FOUND_GRACE)
    watcher.leases.idle_since = now - min(elapsed, policy.idle_timeout - grace)
