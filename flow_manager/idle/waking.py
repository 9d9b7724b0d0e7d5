"""Waking one flow: wait out a stop, wake what it needs, start it, wait for its readiness. One attempt at a time.

An attempt belongs to the watcher: callers that leave cancel nothing. Whatever happens to the flow meanwhile reaches the
watcher first, which may end the attempt; each step here therefore looks whether it is still the one that counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from flow_manager.containers.sleep import wake_now
from flow_manager.contract.principal import MANAGER
from flow_manager.errors import Conflict, FlowManagerError, Internal, StartFailed, WakeTimeout
from flow_manager.idle import needs
from flow_manager.idle.attempt import Attempt
from flow_manager.idle.readiness_target import NotReady, ProbeTarget
from flow_manager.idle.states import Event
from flow_manager.idle.upstream import Candidate, candidates, no_way
from flow_manager.util.ids import new_short_id

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

STARTS = "the start"
# Seconds that a stop may take beyond its grace before a wake that waits for it gives up: the escalation gets its chance.
STOP_PATIENCE = 30.0
# Of thousands that are found running at start, so many are asked at a time; one that takes longer makes room after so many
# seconds, and waits on.
FOUND_SHARE = 5.0
# The prober keeps its own deadline; should it fail to, the wait ends so many seconds later.
GUARD = 5.0


def begin(
    watcher: Watcher, reason: str, *, person: bool, for_dependent: bool = False, observed: bool = False
) -> Attempt:
    """Begin an attempt; there must be none under way."""
    assert watcher.attempt is None
    attempt = Attempt(
        reason,
        watcher.keeper.clock.monotonic(),
        person=person,
        for_dependent=for_dependent,
        observed=observed,
    )
    watcher.attempt = attempt
    # First of all: should one who listens to what follows raise, whoever joins this attempt is answered all the same.
    _work_on(watcher, attempt)
    watcher.history.clear()
    if watcher.state == "stopping":
        attempt.phase = "stop"
        watcher.history.add("starting", f"{watcher.name} is going to sleep: waiting until it has stopped")
    else:
        _announce(watcher, attempt)
    return attempt


def begin_anew(watcher: Watcher, attempt: Attempt) -> None:
    """It is being put to sleep under requests that wait: they wait for the end of that, and wake it again."""
    if attempt.task is not None:
        attempt.task.cancel()
    attempt.round += 1
    attempt.phase, attempt.observed, attempt.woke, attempt.steps = "stop", False, False, {}
    _work_on(watcher, attempt)
    watcher.history.clear()
    watcher.history.add("starting", f"{watcher.name} is being put to sleep: it is woken again when it has stopped")


def _work_on(watcher: Watcher, attempt: Attempt) -> None:
    task = watcher.keeper.spawn(_run(watcher, attempt), f"wake-{watcher.id}")
    attempt.task = task
    task.add_done_callback(lambda _done: _cut_off(watcher, attempt, task))


def _cut_off(watcher: Watcher, attempt: Attempt, task: asyncio.Task[None]) -> None:
    """Nobody works on it any more, and nobody has ended it: a cancellation came from within what it waited for. Whoever waits
    for the wake must be answered all the same."""
    if watcher.attempt is attempt and attempt.task is task and not watcher.keeper.closing:
        _fault(watcher, attempt, RuntimeError(f"a wake was cut off while it waited for {watcher.waiting_for}"))


def _fault(watcher: Watcher, attempt: Attempt, fault: Exception) -> None:
    error_id = new_short_id("err")
    watcher.keeper.core.log.log_error(error_id, fault, operation="wake", container=watcher.id)
    _failed(watcher, attempt, Internal("a fault of the manager's own", error_id=error_id))


def _announce(watcher: Watcher, attempt: Attempt) -> None:
    watcher.apply(Event.WAKE)
    watcher.history.add("starting", f"{watcher.name} was started" if attempt.observed else f"waking {watcher.name}")


async def _run(watcher: Watcher, attempt: Attempt) -> None:
    round = attempt.round
    try:
        found = await _steps(watcher, attempt)
    except Exception as error:
        if attempt.round != round:
            return  # begun anew meanwhile
        if isinstance(error, FlowManagerError):
            _failed(watcher, attempt, error)
        else:
            _fault(watcher, attempt, error)
    else:
        if watcher.attempt is attempt and attempt.round == round:
            _ready(watcher, attempt, found)


def look_after(watcher: Watcher) -> None:
    """It runs, is called starting, and nobody waits for its readiness (any more): somebody must, or it stays so for ever."""
    if watcher.state == "starting" and watcher.attempt is None and watcher.up and not watcher.keeper.closing:
        begin(watcher, "it was started", person=False, observed=True)


def _failed(watcher: Watcher, attempt: Attempt, error: FlowManagerError) -> None:
    if watcher.attempt is not attempt:
        return
    if attempt.refused or isinstance(error, Conflict) or watcher.state not in ("starting", "error"):
        # Not a failure of the flow: something else was wanted.
        if watcher.state == "starting" and not watcher.up:
            watcher.stop_reason = watcher.stop_reason or "its wake was ended"
            watcher.apply(Event.STOPPED)
        watcher.give_up(attempt, error)
        look_after(watcher)
    else:
        watcher.fail(error, Event.FAILED)


async def _steps(watcher: Watcher, attempt: Attempt) -> Candidate | None:
    keeper = watcher.keeper
    if attempt.phase == "stop":
        await _wait_out_stop(watcher, attempt)
    moment = keeper.clock.monotonic()
    attempt.phase = "dependencies"
    needs.hold(watcher)
    if attempt.observed:
        needs.begin_all(watcher)
    else:
        await needs.wake_all(watcher, attempt)
    moment = _took(watcher, attempt, "dependencies", moment)

    attempt.phase = "start"
    deadline = moment + watcher.wake_timeout
    if not attempt.observed:
        await _start(watcher, attempt)
    moment = _took(watcher, attempt, "start", moment)

    attempt.phase = "readiness"
    if not watcher.found:
        return await _wait_ready(watcher, attempt, deadline)
    async with keeper.found:
        deadline = keeper.clock.monotonic() + watcher.wake_timeout
        waiting = asyncio.ensure_future(_wait_ready(watcher, attempt, deadline))
        try:
            await asyncio.wait({waiting}, timeout=FOUND_SHARE)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
    try:
        return await waiting
    finally:
        waiting.cancel()


def _took(watcher: Watcher, attempt: Attempt, step: str, since: float) -> float:
    now = watcher.keeper.clock.monotonic()
    attempt.steps[step] = round(now - since, 3)
    return now


async def _wait_out_stop(watcher: Watcher, attempt: Attempt) -> None:
    """Nothing is forwarded into a dying flow, and an engine that is stopping one says yes to a start and stops it all the
    same: only after the end of the stop is a start worth anything."""
    policy = watcher.policy
    patience = (policy.stop_timeout if policy else 10.0) + STOP_PATIENCE
    watcher.waits_for("the end of its stop")
    try:
        async with asyncio.timeout(patience):
            await watcher.until(lambda: watcher.state != "stopping")
    except TimeoutError:
        raise WakeTimeout(
            "it does not stop, so that it can't be started", waited_for="stop", timeout=patience
        ) from None
    watcher.waits_for(None)
    if not attempt.person and watcher.state in ("napping", "error"):
        try:
            watcher.refuse_traffic(for_dependent=attempt.for_dependent)
        except FlowManagerError:
            attempt.refused = True
            raise
    _took(watcher, attempt, "stop", attempt.began)
    _announce(watcher, attempt)


async def _start(watcher: Watcher, attempt: Attempt) -> None:
    keeper, timeout = watcher.keeper, watcher.wake_timeout
    slept = not watcher.up
    person, round = attempt.person, attempt.round
    watcher.waits_for(STARTS)
    try:
        async with asyncio.timeout(timeout):
            woken = None
            # None: it joined the start of an attempt that was given up before its turn came; its own is next.
            while woken is None and watcher.attempt is attempt:
                woken = await wake_now(
                    keeper.core,
                    MANAGER,
                    watcher.entry,
                    clear_stopped=person,
                    still_wanted=lambda: watcher.attempt is attempt and attempt.round == round,
                )
    except TimeoutError:
        held_up = watcher.waiting_for if watcher.waiting_for != STARTS else None
        why = f"waiting for {held_up}" if held_up else "the runtime does not answer"
        raise WakeTimeout(
            f"not started within {timeout:g} s: {why}", waited_for=held_up or "start", timeout=timeout
        ) from None
    except Conflict as error:
        attempt.refused = not person and error.details.get("desired") == "stopped"
        raise
    if slept and woken is not None:
        attempt.woke = True
        watcher.history.add("container_woke", f"{watcher.name} runs")


async def _wait_ready(watcher: Watcher, attempt: Attempt, deadline: float) -> Candidate | None:
    keeper = watcher.keeper
    while True:
        if not _runs(watcher):
            await _wait_until_it_runs(watcher, deadline)
        run = watcher.run

        def ended(run: int = run) -> bool:
            return watcher.run != run or watcher.attempt is not attempt or not _runs(watcher)

        def told(words: str) -> None:
            if watcher.attempt is attempt and watcher.waiting_for != words:
                watcher.waits_for(words)
                watcher.history.add("waiting_ready", f"waiting for {words}")

        guard = max(0.0, deadline - keeper.clock.monotonic()) + GUARD
        try:
            async with asyncio.timeout(guard):
                found = await keeper.prober.wait_ready(probe_target(watcher, ended), deadline=deadline, told=told)
        except NotReady as error:
            if (watcher.run != run or not _runs(watcher)) and keeper.clock.monotonic() < deadline:
                continue  # another run than the one that was waited for: its own readiness counts
            raise _not_ready(watcher, error) from None
        except TimeoutError:
            raise _too_late(watcher, watcher.waiting_for or "readiness", None) from None
        if watcher.run == run and _runs(watcher):
            return found


def _runs(watcher: Watcher) -> bool:
    """Its processes run, and nobody is about to end them: in the stop of a restart they still answer."""
    return watcher.up and watcher.state == "starting"


async def _wait_until_it_runs(watcher: Watcher, deadline: float) -> None:
    """It isn't there (any more): its restart policy, or a restart that somebody asked for, may bring it back."""
    watcher.waits_for("its start")
    try:
        async with asyncio.timeout(max(0.0, deadline - watcher.keeper.clock.monotonic())):
            await watcher.until(lambda: _runs(watcher))
    except TimeoutError:
        raise _too_late(watcher, "its start", None) from None


def probe_target(watcher: Watcher, ended: Callable[[], bool]) -> ProbeTarget:
    entry = watcher.entry
    published_on = watcher.keeper.core.settings.policy.publish_address
    if watcher.channel_ready is None:
        watcher.channel_ready = asyncio.Event()
    return ProbeTarget(
        flow_id=watcher.id,
        policy=watcher.policy,
        ended=ended,
        port=watcher.port,
        candidates=lambda port: candidates(entry.observation, port, entry.runtime.kind, published_on=published_on),
        no_way=lambda port: no_way(entry.observation, port, published_on=published_on),
        has_health=entry.observation is not None and entry.observation.health != "none",
        health=lambda: entry.observation.health if entry.observation is not None else "none",
        channel_ready=watcher.channel_ready,
    )


def _not_ready(watcher: Watcher, error: NotReady) -> FlowManagerError:
    if error.reason == "exited":
        code = watcher.entry.observation.exit_code if watcher.entry.observation is not None else None
        return StartFailed(str(error), exit_code=code, reason="exit")
    return _too_late(watcher, error.waited_for, error.last_failure)


def _too_late(watcher: Watcher, waited_for: str, last: str | None) -> WakeTimeout:
    timeout = watcher.wake_timeout
    why = f": {last}" if last else ""
    return WakeTimeout(
        f"not ready within {timeout:g} s, waiting for {waited_for}{why}",
        waited_for=waited_for,
        reason=last,
        timeout=timeout,
    )


def _ready(watcher: Watcher, attempt: Attempt, found: Candidate | None) -> None:
    """Everything that it takes to be ready has passed, in the run that is still under way."""
    keeper = watcher.keeper
    took = round(keeper.clock.monotonic() - attempt.began, 3)
    attempt.steps["readiness"] = round(took - sum(attempt.steps.values()), 3)
    watcher.upstream = found.pair if found is not None else None
    watcher.attempt = None
    found_running = watcher.found
    try:
        watcher.apply(Event.READY)
        watcher.last_woke = (keeper.clock.now(), attempt.reason, took if attempt.woke else None)
        watcher.history.add("ready", f"{watcher.name} is ready")
    finally:
        # Also where a listener raised: nobody else knows this attempt any more, and its waiters would wait for ever.
        attempt.succeed()
    if found_running:
        watcher.forget_history()
    if attempt.woke:
        watcher.learn(took)
        keeper.core.activity.log_user_activity(
            "woke",
            f"flow *{watcher.name}* woke in {took:.1f} s: {attempt.reason}",
            flow=watcher.entry.ref,
            details={"reason": attempt.reason, "seconds": took, "steps": dict(attempt.steps)},
        )
