"""The one table of a flow's states, and how what is seen and done becomes its events. Pure; nothing else changes a state.

The runtime's events and the comparisons with it are the only truth, so the table knows what was *seen*, never what was
merely asked for: a stop that fails leaves the flow `stopping`, and it can't become `ready` again in silence.
"""

from __future__ import annotations

from enum import Enum, auto

from flow_manager.contract.models import FlowState
from flow_manager.runtimes.base import Observation


class Event(Enum):
    WAKE = auto()  # a wake or a start begins
    STARTED = auto()  # the runtime says started or unpaused
    RESTARTED = auto()  # the runtime says that it runs anew, or is about to: another run than the one that was known
    READY = auto()  # readiness passes
    FAILED = auto()  # readiness, the start call or a dependency fails
    DIED = auto()  # it ended with a code other than 0, and nobody asked for it
    ENDED = auto()  # it ended with code 0
    STOP_BEGINS = auto()  # the manager is about to stop, kill or pause it
    STOPPED = auto()  # somebody stopped or paused it: a client, a person, the idle timeout
    UNHEALTHY = auto()  # liveness fails, or Docker health says unhealthy
    GONE = auto()  # its container was removed


TABLE: dict[tuple[FlowState, Event], FlowState] = {
    ("napping", Event.WAKE): "starting",
    ("napping", Event.STARTED): "starting",
    ("napping", Event.RESTARTED): "starting",
    ("starting", Event.READY): "ready",
    ("starting", Event.FAILED): "error",
    ("starting", Event.DIED): "error",
    ("starting", Event.ENDED): "napping",
    ("starting", Event.STOPPED): "napping",
    ("starting", Event.STOP_BEGINS): "stopping",
    ("ready", Event.RESTARTED): "starting",
    ("ready", Event.UNHEALTHY): "error",
    ("ready", Event.DIED): "error",
    ("ready", Event.ENDED): "napping",
    ("ready", Event.STOPPED): "napping",
    ("ready", Event.STOP_BEGINS): "stopping",
    ("stopping", Event.STOPPED): "napping",
    ("stopping", Event.DIED): "napping",
    ("stopping", Event.ENDED): "napping",
    ("stopping", Event.STARTED): "starting",
    ("stopping", Event.RESTARTED): "starting",
    ("error", Event.STOPPED): "napping",
    ("error", Event.STARTED): "starting",
    ("error", Event.RESTARTED): "starting",
    ("error", Event.WAKE): "starting",
    **{(state, Event.GONE): "error" for state in ("napping", "starting", "ready", "stopping")},
}
"""A pair that isn't here changes nothing."""

# Operations of the manager that end, or freeze, a run. A `sleep` says so itself, once nothing holds the flow any more.
STOPS = frozenset({"stop", "kill", "pause", "restart", "update"})
# Those that bring it back up, if it ran: who waits for it goes on waiting.
COMES_BACK = frozenset({"restart", "update"})
# Operations whose effect, once done, is that somebody stopped it.
ENDS = frozenset({"stop", "kill", "pause", "sleep"})
ENDS_A_RUN = STOPS | ENDS
STARTS = frozenset({"start", "unpause", "wake"})
# Under these, an end that is seen was asked for, whatever its code.
_ASKED_TO_END = ENDS_A_RUN | {"delete"}
_ENDED = frozenset({"exited", "stopped", "dead"})


def transition(state: FlowState, event: Event) -> FlowState:
    return TABLE.get((state, event), state)


def on_operation_begin(operation: str) -> Event | None:
    """What the begin of one of the manager's operations means."""
    if operation in STOPS:
        return Event.STOP_BEGINS
    # A `wake` is a step of an attempt, which has said so itself, and may have been given up while it queued.
    return Event.WAKE if operation in STARTS - {"wake"} else None


def on_operation_end(operation: str, *, failed: bool, runs: bool) -> Event | None:
    """What its end means beside what was observed. `runs`: its processes run, as far as is known.

    A client's stop of a flow that had ended already observes nothing new, and still takes it out of `error`.
    """
    if failed:
        return Event.FAILED if operation in STARTS | COMES_BACK and not runs else None
    # The update of a flow that did not run leaves it so.
    return Event.STOPPED if operation in ENDS | {"update"} and not runs else None


def on_observation(
    before: Observation | None, now: Observation | None, cause: str | None, operation: str | None
) -> tuple[Event, ...]:
    """What the runtime's word means, in order; nothing when it says what was known already.

    `operation` is the manager's own that is under way: an end that is seen then was asked for. `cause` is why it ended, where
    an event told: exit, oom, stop (somebody asked for it).
    """
    if now is None or now.state == "removing":
        return (Event.GONE,)
    new_run = before is None or before.started_at != now.started_at
    if now.state == "running":
        return _on_running(before, now, new_run)
    if now.state == "restarting":
        return () if before is not None and before.state == "restarting" else (Event.RESTARTED,)
    if now.state == "paused":
        return () if before is not None and before.state == "paused" else (Event.STOPPED,)
    if now.state not in _ENDED:
        return ()  # created
    ran = before is not None and before.running
    if not ran and (not new_run or before is None or now.started_at is None):
        return ()  # known, or found so at start: `error` isn't left by that, nor entered
    # A run that began and ended between two looks was a run all the same.
    unseen = () if ran and not new_run else (Event.RESTARTED,)
    return (*unseen, _end(now, cause, operation))


def _on_running(before: Observation | None, now: Observation, new_run: bool) -> tuple[Event, ...]:
    if before is None or before.state != "running":
        return (Event.STARTED,)
    if new_run:
        return (Event.RESTARTED,)
    if now.health == "unhealthy" and before.health != "unhealthy":
        return (Event.UNHEALTHY,)
    return ()


def _end(now: Observation, cause: str | None, operation: str | None) -> Event:
    if operation in _ASKED_TO_END or cause == "stop":
        return Event.STOPPED
    if now.oom_killed or now.exit_code:
        return Event.DIED
    # Where a runtime knows no code, an end counts as a stop: nothing says that anything went wrong.
    return Event.ENDED if now.exit_code == 0 else Event.STOPPED
