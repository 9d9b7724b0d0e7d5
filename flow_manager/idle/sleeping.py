"""Putting one flow to sleep: never while anything holds it, never forgotten once begun."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flow_manager.containers.sleep import sleep_now
from flow_manager.contract.principal import MANAGER, Principal
from flow_manager.errors import Conflict, FlowManagerError, NotAllowed, RuntimeUnavailable
from flow_manager.idle.states import Event
from flow_manager.idle.wheel import NEVER

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

# Seconds between tries of a stop that fails: none before the first kill, then doubled with each, up to the last.
FIRST_RETRY, LAST_RETRY = 1.0, 300.0
# A sleep that could not even begin (the service ends, the runtime can't pause) is tried again after so many seconds.
CANT_SLEEP = 60.0


def begin(watcher: Watcher) -> None:
    """The idle timeout is due."""
    watcher.sleeping = True
    watcher.keeper.spawn(_nap(watcher), f"sleep-{watcher.id}")


def _still_idle(watcher: Watcher) -> bool:
    """Asked under the flow's lock, right before the stop: whoever came meanwhile has won. Yes is a step of the table, so
    that from this moment on nothing is forwarded any more."""
    at = watcher.sleeps_at()
    if at is None or at > watcher.keeper.clock.monotonic():
        return False
    return watcher.apply(Event.STOP_BEGINS)


async def _nap(watcher: Watcher) -> None:
    keeper = watcher.keeper
    reason = f"not used for {in_words(watcher.leases.idle_timeout)}"
    watcher.stop_reason = reason
    try:
        await sleep_now(keeper.core, MANAGER, watcher.entry, reason=reason, still_idle=lambda: _still_idle(watcher))
    except FlowManagerError:
        # Told to people by the operation. A stop that failed is looked after by its end; this one did not begin.
        watcher.sleep_at = keeper.clock.monotonic() + CANT_SLEEP
    finally:
        watcher.sleeping = False
        watcher.rearm()


async def on_demand(watcher: Watcher, principal: Principal) -> None:
    """`sleep_container`: now what the idle timeout would do, used or not, but never under another flow that needs it.

    :raises NotAllowed: without an idle policy nothing would wake it. :raises Conflict: another flow needs it.
    :raises StopFailed, RuntimeUnavailable, Unsupported:
    """
    if watcher.policy is None:
        raise NotAllowed("this flow has no idle policy: stop it instead", setting="idle")
    _refuse_under_others(watcher)

    def go() -> bool:
        _refuse_under_others(watcher)
        watcher.stop_reason = f"{principal.name} let it sleep"
        watcher.stop_begins("sleep")
        return True

    await sleep_now(
        watcher.keeper.core, principal, watcher.entry, reason=f"{principal.name} asked for it", still_idle=go
    )


def _refuse_under_others(watcher: Watcher) -> None:
    users = sorted({lease.holder for lease in watcher.leases.of_kind("dependent")})
    if users:
        one = len(users) == 1
        words = f"{' and '.join(users)} {'needs' if one else 'need'} it: let {'that' if one else 'those'} sleep first"
        raise Conflict(words, operation="sleep", dependents=users)


def stop_failed(watcher: Watcher, error: BaseException) -> None:
    """It is `stopping` still: killed at once, and again and again with growing pauses; people read of each time."""
    watcher.stop_failures += 1
    if isinstance(error, FlowManagerError) and not isinstance(error, RuntimeUnavailable):
        # Whatever is wrong with the gentle way (a signal that nobody knows, say), KILL needs none of it.
        watcher.stop_force = True
    pause = 0.0
    if watcher.stop_failures > 1 or not watcher.stop_force or isinstance(error, asyncio.CancelledError):
        pause = min(LAST_RETRY, FIRST_RETRY * 2 ** min(max(watcher.stop_failures - 2, 0), 16))
    watcher.stop_at = watcher.keeper.clock.monotonic() + pause
    watcher.rearm()


def try_again(watcher: Watcher) -> None:
    watcher.stop_at = NEVER
    watcher.keeper.spawn(_stop_again(watcher), f"stop-again-{watcher.id}")


async def _stop_again(watcher: Watcher) -> None:
    keeper = watcher.keeper
    try:
        await sleep_now(
            keeper.core,
            MANAGER,
            watcher.entry,
            reason="the stop that failed was done again",
            force=watcher.stop_force,
            still_idle=lambda: watcher.state == "stopping",
        )
    except FlowManagerError as error:
        if watcher.state == "stopping" and watcher.stop_at == NEVER:
            stop_failed(watcher, error)  # it did not come to an operation at all


def in_words(seconds: float) -> str:
    """`90` → `1 min 30 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{number} {unit}" for number, unit in [part for part in parts if part[0]][:2])
