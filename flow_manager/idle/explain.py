"""Why a flow is awake or asleep, in one sentence for people and in fields for programs. No state is changed here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flow_manager.contract.wake import IdleExplanation, LeaseInfo, SleepNote, WakeNote
from flow_manager.idle.sleeping import in_words

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

_ONE = {
    "http": "request in flight",
    "websocket": "WebSocket",
    "tcp": "TCP connection",
    "terminal": "terminal",
    "exec": "command",
    "message": "message that awaits its reply",
    "dependent": "flow that needs it",
    "busy": "busy",
}
_MANY = {
    "http": "requests in flight",
    "websocket": "WebSockets",
    "tcp": "TCP connections",
    "terminal": "terminals",
    "exec": "commands",
    "message": "messages that await their replies",
    "dependent": "flows that need it",
}


def explain(watcher: Watcher) -> IdleExplanation:
    now = watcher.keeper.clock.monotonic()
    leases = watcher.leases.explain(now)
    at = watcher.sleeps_at()
    sleeps_in = None if at is None else round(max(0.0, at - now), 3)
    retry_in = watcher.retry_in
    return IdleExplanation(
        container_id=watcher.id,
        name=watcher.name,
        flow_state=watcher.state,
        desired=watcher.desired,
        idle=watcher.policy,
        leases=leases,
        sleeps_in=sleeps_in,
        sleeps_at=None if at is None else watcher.keeper.wall(max(at, now)),
        last_slept=SleepNote(at=watcher.last_slept[0], reason=watcher.last_slept[1]) if watcher.last_slept else None,
        last_woke=(
            WakeNote(at=watcher.last_woke[0], reason=watcher.last_woke[1], took=watcher.last_woke[2])
            if watcher.last_woke
            else None
        ),
        crashes=watcher.failures,
        retry_in=None if retry_in is None else round(retry_in, 3),
        waiting_for=watcher.waiting_for,
        error=watcher.error,
        summary=_summary(watcher, leases, sleeps_in, retry_in),
    )


def _summary(watcher: Watcher, leases: list[LeaseInfo], sleeps_in: float | None, retry_in: float | None) -> str:
    match watcher.state:
        case "ready":
            return _awake(watcher, leases, sleeps_in)
        case "starting":
            waits = f", waiting for {watcher.waiting_for}" if watcher.waiting_for else ""
            return f"starting{waits}"
        case "stopping":
            again = f"; {watcher.stop_failures} tries failed" if watcher.stop_failures else ""
            waits = f", waiting for {watcher.waiting_for}" if watcher.waiting_for else ""
            return f"going to sleep: {watcher.stop_reason or 'it is being stopped'}{waits}{again}"
        case "error":
            next_try = "traffic tries again" if retry_in is None else f"traffic tries again in {in_words(retry_in)}"
            if watcher.policy is None:
                next_try = "start it to try again"
            return f"failed: {watcher.error or 'for an unknown reason'}; {next_try}"
    if watcher.never_ran:
        return "never started: start or wake it; without an idle policy traffic doesn't"
    if watcher.desired == "stopped":
        return "stopped by somebody: start or wake it; traffic doesn't"
    if watcher.policy is None:
        return "not running, and without an idle policy: only a start or a wake brings it up"
    because = f" ({watcher.last_slept[1]})" if watcher.last_slept else ""
    return f"asleep{because}: the next request wakes it"


def _awake(watcher: Watcher, leases: list[LeaseInfo], sleeps_in: float | None) -> str:
    if watcher.policy is None:
        return "awake: it has no idle policy and never sleeps by itself"
    timeout = watcher.policy.idle_timeout
    reasons = _reasons(leases)
    if not timeout:
        return f"awake: its idle timeout is 0, so that it never sleeps by itself{f'; {reasons}' if reasons else ''}"
    if reasons and sleeps_in is None:
        return f"awake: {reasons}; sleeps {in_words(timeout)} after the last ends"
    when = f"sleeps in {in_words(sleeps_in or 0.0)} unless it is used"
    return f"awake: {reasons}; {when}" if reasons else f"awake: not in use; {when}"


def _reasons(leases: list[LeaseInfo]) -> str:
    """`2 requests in flight (oldest 3 s), 1 WebSocket (used 2 s ago)`"""
    words: list[str] = []
    for kind, count in Counter(lease.kind for lease in leases).items():
        of_kind = [lease for lease in leases if lease.kind == kind]
        oldest = max(lease.age for lease in of_kind)
        if kind == "busy":
            words.append(f"the flow says that it is busy ({of_kind[0].holder})")
        elif kind == "dependent":
            words.append(f"needed by {', '.join(sorted({lease.holder for lease in of_kind}))}")
        elif count == 1:
            words.append(f"1 {_ONE[kind]} ({in_words(oldest)})")
        else:
            words.append(f"{count} {_MANY[kind]} (oldest {in_words(oldest)})")
    return ", ".join(words)
