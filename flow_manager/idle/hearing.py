"""What happens to a flow, as its watcher hears it: the manager's operations and the runtime's words become events of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.contract.models import FlowState
from flow_manager.errors import Conflict, ContainerNotFound, ContainerStopped, FlowManagerError, StartFailed
from flow_manager.idle import outage, sleeping, waking
from flow_manager.idle.states import (
    COMES_BACK,
    ENDS_A_RUN,
    Event,
    on_observation,
    on_operation_begin,
    on_operation_end,
    transition,
)
from flow_manager.idle.upstream import from_here, in_container, moved
from flow_manager.runtimes.base import Observation

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

_DONE = {"stop": "stopped", "kill": "killed", "pause": "paused", "restart": "restarted", "update": "updated"}


def _why_ended(by_hand: bool, code: int | None, was: FlowState, known: str | None) -> str:
    if was == "stopping" and known is not None:
        return known
    if by_hand:
        return "somebody stopped it outside the manager"
    return "it ended by itself" if code is None else f"it ended by itself with exit code {code}"


def _ended_error(event: Event, by_hand: bool, code: int | None) -> FlowManagerError:
    if event is Event.ENDED:
        return ContainerStopped("the flow ended with exit code 0 before it was ready", exit_code=code)
    return Conflict("somebody stopped the flow", operation="stop", desired="stopped" if by_hand else None)


def operation_begins(watcher: Watcher, operation: str, actor: str) -> None:
    seen = watcher.entry.observation
    if operation == "unpause" and seen is not None and seen.state != "paused":
        return  # it will be refused, or changes nothing: a flow at rest must not be called failed for it
    event = on_operation_begin(operation)
    if event is Event.STOP_BEGINS:
        watcher.stop_reason = f"{actor} {_DONE.get(operation, operation)} it"
        stop_begins(watcher, operation)
    elif event is not None:
        watcher.apply(event)


def stop_begins(watcher: Watcher, operation: str) -> None:
    """From here on nothing is forwarded to it, and its waiters hear why; a restart brings it back to them.

    Requests that wait for it wake it again after a sleep: traffic that came later would, too.
    """
    attempt = watcher.attempt
    if not watcher.apply(Event.STOP_BEGINS) or operation in COMES_BACK or attempt is None:
        return
    if operation == "sleep" and attempt.held:
        waking.begin_anew(watcher, attempt)
        return
    desired = None if operation == "sleep" else "stopped"
    watcher.give_up(attempt, Conflict(f"the wake was ended by {operation}", operation=operation, desired=desired))


def operation_ended(watcher: Watcher, operation: str, error: BaseException | None) -> None:
    if error is not None and watcher.state == "stopping" and operation in ENDS_A_RUN:
        _stop_failed(watcher, error)
        return
    event = on_operation_end(operation, failed=error is not None, runs=watcher.up)
    if event is Event.FAILED and operation == "wake":
        return  # its attempt looks after it
    if event is Event.FAILED and isinstance(error, FlowManagerError):
        watcher.fail(error, event)
    elif event is Event.FAILED and watcher.attempt is None:
        watcher.apply(Event.STOPPED)  # a start that a kill went before: nobody else will bring it up
    elif event is Event.STOPPED and watcher.state == "starting" and watcher.attempt is not None:
        pass  # its end was seen before the operation's own: a wake that waited for it is under way already
    elif event is not None and not watcher.gone:
        watcher.apply(event)
    # A start of what ran already, though it had failed, observes nothing new.
    waking.look_after(watcher)


def _stop_failed(watcher: Watcher, error: BaseException) -> None:
    if isinstance(error, ContainerStopped) and not watcher.up:
        watcher.apply(Event.STOPPED)
        return
    sleeping.stop_failed(watcher, error)
    attempt = watcher.attempt
    if attempt is not None and attempt.phase != "stop" and isinstance(error, FlowManagerError):
        watcher.give_up(attempt, error)  # the restart that was to bring it back has failed


def observed(watcher: Watcher, before: Observation | None, now: Observation | None, cause: str | None) -> None:
    """The runtime said something."""
    operation = watcher.entry.operation
    first = before is None and operation is None
    if watcher.gone:
        before = None  # what was known of the container that is gone says nothing of the one that is there now
    watcher.gone = now is None
    for event in on_observation(before, now, cause, operation):
        take_in(watcher, event, now, cause, operation, first=first)
    _follow_addresses(watcher, before, now)
    outage.observed(watcher, before, now, cause)
    watcher.changed()
    watcher.rearm()


def _follow_addresses(watcher: Watcher, before: Observation | None, now: Observation | None) -> None:
    """A flow may get other addresses while it runs (`docker network disconnect` and `connect`). The former one leads nowhere
    then, or to the container of somebody else."""
    if watcher.state != "ready" or watcher.upstream is None or before is None or now is None:
        return
    if before.addresses != now.addresses or before.ports != now.ports:
        port = watcher.port
        ways = waking.probe_target(watcher, lambda: False).ways(port) if port is not None else ()
        watcher.upstream = moved(watcher.upstream, from_here(ways, contained=in_container()))


def take_in(
    watcher: Watcher, event: Event, now: Observation | None, cause: str | None, operation: str | None, *, first: bool
) -> None:
    was = watcher.state
    if event is Event.UNHEALTHY:
        if was == "ready":  # unhealthy while starting is still starting
            watcher.fail(StartFailed("its health check fails", reason="unhealthy"), event)
        return
    watcher.run += 1
    if event in (Event.DIED, Event.ENDED) and was in ("starting", "ready"):
        watcher.ended_at = watcher.keeper.clock.monotonic()
    code = now.exit_code if now is not None else None
    if event in (Event.STARTED, Event.RESTARTED):
        watcher.found = watcher.found or first
        if now is not None and now.state == "restarting":
            watcher.failures += 1
        watcher.apply(event)
        if watcher.state == "starting" and watcher.attempt is None:
            waking.begin(watcher, "it was found running" if first else "it was started", person=False, observed=True)
        if operation is None and not first and watcher.up and watcher.entry.record.desired == "stopped":
            watcher.wish("running")
    elif event is Event.GONE:
        watcher.fail(ContainerNotFound(watcher.id, kind=watcher.entry.runtime.kind), event)
    elif event is Event.DIED and was in ("starting", "ready"):
        how = "ran out of memory" if now is not None and now.oom_killed else f"ended with exit code {code}"
        watcher.fail(StartFailed(f"the flow {how}", exit_code=code, reason="oom" if "memory" in how else "exit"), event)
    else:
        by_hand = operation is None and (cause == "stop" or (now is not None and now.state == "paused"))
        if operation is None and transition(was, event) != was:
            watcher.stop_reason = _why_ended(by_hand, code, was, watcher.stop_reason)
        watcher.apply(event)
        if operation in COMES_BACK:
            watcher.apply(Event.WAKE)  # its second half begins
        # Napping: frozen to sleep, and then somebody stopped it for good.
        if by_hand and (was in ("starting", "ready", "error") or (was == "napping" and cause == "stop")):
            watcher.wish("stopped")
        if watcher.attempt is not None and was == "starting" and operation not in COMES_BACK:
            watcher.give_up(watcher.attempt, _ended_error(event, by_hand, code))


def end_explained(watcher: Watcher) -> None:
    """It ended some other way than we thought: a person stopped it. That is no failure, and traffic doesn't wake it."""
    attempt = watcher.attempt
    if watcher.up or (attempt is not None and attempt.person):
        return  # it runs again, or somebody has asked for it since
    reason = _why_ended(True, None, watcher.state, None)
    if watcher.state == "napping":
        watcher.last_slept = (watcher.keeper.clock.now(), reason)
    else:
        watcher.stop_reason = reason
        watcher.entry.problem = None
        watcher.apply(Event.STOPPED)
    watcher.wish("stopped")
    if attempt is not None:
        watcher.give_up(attempt, _ended_error(Event.STOPPED, True, None))
