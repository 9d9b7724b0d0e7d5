"""An engine that goes away and comes back: flows that were running and wanted are started again, since nobody asked for their
end, and those that failed for its absence alone are no failures any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.errors import FlowManagerError, RuntimeUnavailable
from flow_manager.idle import waking
from flow_manager.idle.states import Event
from flow_manager.idle.wheel import NEVER
from flow_manager.runtimes.base import Observation

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

# An engine that shuts down ends its flows first, each with its grace (Docker: 15 s for all), and tells so: what ended so
# many seconds before the engine went away was ended by it.
JUST_BEFORE = 20.0
# What is found to have ended within so many seconds of its return was ended by its restart.
JUST_AFTER = 60.0


def went_away(watcher: Watcher) -> None:
    now = watcher.keeper.clock.monotonic()
    if watcher.state in ("starting", "ready") or now - watcher.ended_at < JUST_BEFORE:
        watcher.wanted_back = NEVER


def came_back(watcher: Watcher) -> None:
    if not watcher.wanted_back:
        return
    watcher.wanted_back = watcher.keeper.clock.monotonic() + JUST_AFTER
    if watcher.state in ("error", "napping"):
        _start_again(watcher)


def observed(watcher: Watcher, before: Observation | None, now: Observation | None, cause: str | None) -> None:
    """An end that no event told of (`cause` None), found just after the engine's return, was the engine's doing."""
    if not watcher.wanted_back:
        return
    in_time = watcher.keeper.clock.monotonic() <= watcher.wanted_back
    if watcher.wanted_back == NEVER:
        return  # still away: an answer in between says nothing
    watcher.wanted_back = 0.0
    ended = now is not None and not now.running and not now.oom_killed and before is not None and before.running
    if in_time and ended and cause is None:
        _start_again(watcher)


def caused(watcher: Watcher, error: FlowManagerError) -> bool:
    """Whether this failure says nothing of the flow itself: its engine, or that of one that it needs, was away."""
    absent = RuntimeUnavailable.code in (error.code, error.details.get("code"))
    return absent or watcher.keeper.core.availability.away(watcher.entry.runtime.name)


def tell_truth(watcher: Watcher) -> None:
    """An engine is back: what failed because one was away is what it was before. Should the flow have changed meanwhile, the
    comparison that follows tells."""
    away = watcher.keeper.core.availability.away(watcher.entry.runtime.name)
    if watcher.state != "error" or not watcher.failed_away or watcher.gone or away or watcher.attempt is not None:
        return
    watcher.failed_away = False
    watcher.entry.problem = None
    if watcher.up:
        watcher.apply(Event.STARTED)
        waking.look_after(watcher)
    else:
        watcher.stop_reason = "its engine was away"
        watcher.apply(Event.STOPPED)


def _start_again(watcher: Watcher) -> None:
    watcher.wanted_back = 0.0
    if watcher.attempt is None and watcher.entry.record.desired == "running" and not watcher.keeper.closing:
        waking.begin(watcher, "its engine was restarted", person=False)
