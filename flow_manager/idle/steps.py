"""One step of the table of states, and what each new state brings with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.errors import FlowManagerError
from flow_manager.idle import deadlines, liveness
from flow_manager.idle.attempt import Attempt
from flow_manager.idle.states import Event, transition
from flow_manager.idle.wheel import NEVER

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher


def apply(watcher: Watcher, event: Event) -> bool:
    """Take the step; whether the state changed."""
    before, after = watcher.state, transition(watcher.state, event)
    if before == after:
        return False
    watcher.state = after
    now = watcher.keeper.clock.monotonic()
    if before == "ready":
        watcher.upstream = None
        watcher.keeper.mark_used(watcher.id)
    if after == "starting":
        watcher.channel_ready = None
        watcher.stop_failures, watcher.stop_force, watcher.stop_at = 0, False, NEVER
    elif after == "ready":
        _became_ready(watcher, now)
    elif after == "napping":
        _fell_asleep(watcher)
    watcher.linger_at = NEVER if watcher.awake or not watcher.needs else now + watcher.keeper.settings.linger
    watcher.rearm()
    watcher.changed()
    watcher.keeper.core.tell(watcher.entry)
    return True


def _became_ready(watcher: Watcher, now: float) -> None:
    watcher.ready_since = now
    watcher.last_ready = watcher.keeper.clock.now()
    watcher.failure, watcher.entry.problem, watcher.waiting_for = None, None, None
    watcher.channel_ready = None  # nobody waits for it any more, and an Event is 800 bytes
    watcher.leases.used()
    if watcher.found:
        watcher.found = False
        deadlines.restore(watcher, now)
    watcher.keeper.mark_used(watcher.id)
    liveness.schedule(watcher)


def _fell_asleep(watcher: Watcher) -> None:
    watcher.last_slept = (watcher.keeper.clock.now(), watcher.stop_reason or "it ended")
    watcher.stop_reason = None
    watcher.failure, watcher.failures, watcher.retry_at = None, 0, 0.0
    watcher.waiting_for = None
    watcher.leases.asleep()
    watcher.clear_history()


def give_up(watcher: Watcher, attempt: Attempt, error: FlowManagerError) -> None:
    """End an attempt that nothing is wrong with: something else was wanted."""
    try:
        if watcher.attempt is attempt:
            watcher.attempt = None
            watcher.waiting_for = None
            watcher.history.add("error", error.message, error=error.code)
    finally:
        attempt.end(error)
