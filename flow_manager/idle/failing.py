"""A flow that failed, and a wish that somebody showed outside the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.contract.models import DesiredState, FlowState
from flow_manager.errors import FlowManagerError
from flow_manager.idle import outage
from flow_manager.idle.states import Event, transition

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

# Seconds that traffic is held back after a failure: doubled with each one in a row, up to the last.
FIRST_BACK_OFF, LAST_BACK_OFF = 1.0, 300.0
# A flow that was ready for so many seconds has started well: what fails later is a first failure again.
STABLE = 60.0


def fail(watcher: Watcher, error: FlowManagerError, event: Event) -> None:
    """It failed: the state says so, traffic is held back for a while, and whoever waits hears it at once."""
    core, now = watcher.keeper.core, watcher.keeper.clock.monotonic()
    error.hide(core.masker)
    was = watcher.state
    if was == "ready" and now - watcher.ready_since >= STABLE:
        watcher.failures = 0
    if was == "error" or transition(was, event) != "error":
        if watcher.attempt is not None:
            watcher.give_up(watcher.attempt, error)
        return
    watcher.failures += 1
    watcher.retry_at = now + min(LAST_BACK_OFF, FIRST_BACK_OFF * 2 ** min(watcher.failures - 1, 16))
    watcher.failure = error
    watcher.failed_away = outage.caused(watcher, error)
    watcher.entry.problem = error.message
    attempt, watcher.attempt = watcher.attempt, None
    try:
        watcher.apply(event)
        error.details.setdefault("retry_after", watcher.retry_after())
        watcher.history.add("error", error.message, error=error.code)
        waiting_for, watcher.waiting_for = watcher.waiting_for, None
        if event is not Event.GONE:  # whoever saw that its container is gone has told it
            _tell(watcher, error, was, waiting_for, watcher.retry_at - now)
    finally:
        # Also where a listener raised: nobody else knows this attempt any more, and its waiters would wait for ever.
        if attempt is not None:
            attempt.end(error)


def _tell(watcher: Watcher, error: FlowManagerError, was: FlowState, waiting_for: str | None, held: float) -> None:
    watcher.keeper.core.activity.log_user_activity(
        "wake_failed" if was == "starting" else "flow_failed",
        f"flow *{watcher.name}* {'did not wake' if was == 'starting' else 'failed'}: {error.message}",
        flow=watcher.entry.ref,
        details={
            "reason": error.message,
            "code": error.code,
            "exit_code": error.details.get("exit_code"),
            "waited_for": waiting_for,
            "crashes": watcher.failures,
            "retry_in": round(held, 3),
        },
    )


def wish(watcher: Watcher, desired: DesiredState) -> None:
    """Somebody did it outside the manager: that is what is wanted from now on."""
    core, entry = watcher.keeper.core, watcher.entry
    watcher.wished = desired

    async def record() -> None:
        try:
            # An operation that has begun meanwhile knows better what is wanted; a sleep wants nothing.
            if core.table.get(entry.id) is entry and entry.operation in (None, "sleep") and watcher.wished == desired:
                await core.record(entry, desired=desired)
        finally:
            watcher.wished = None
        core.tell(entry)
        watcher.changed()

    watcher.keeper.spawn(record(), f"desired-{watcher.id}")
