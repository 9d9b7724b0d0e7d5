from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import get_args

import pytest

from flow_manager.contract.models import FlowState
from flow_manager.idle.states import TABLE, Event, on_observation, on_operation_begin, on_operation_end, transition
from flow_manager.runtimes.base import Observation

AT = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = Observation("a", "r", "web", "created")
RUNNING = Observation("a", "r", "web", "running", started_at=AT)
PAUSED = replace(RUNNING, state="paused")
AGAIN = replace(RUNNING, started_at=AT + timedelta(seconds=9))
RESTARTING = replace(RUNNING, state="restarting")
GONE = replace(RUNNING, state="removing")


def ended(code: int | None, *, of: Observation = RUNNING, oom: bool = False) -> Observation:
    return replace(of, state="exited" if code is not None else "stopped", exit_code=code, oom_killed=oom)


ROWS = [
    ("napping", Event.STARTED, "starting"),
    ("napping", Event.WAKE, "starting"),
    ("starting", Event.READY, "ready"),
    ("starting", Event.FAILED, "error"),
    ("starting", Event.DIED, "error"),
    ("starting", Event.STOPPED, "napping"),
    ("starting", Event.ENDED, "napping"),
    ("starting", Event.STOP_BEGINS, "stopping"),
    ("ready", Event.STOPPED, "napping"),
    ("ready", Event.ENDED, "napping"),
    ("ready", Event.STOP_BEGINS, "stopping"),
    ("ready", Event.UNHEALTHY, "error"),
    ("ready", Event.DIED, "error"),
    ("stopping", Event.STOPPED, "napping"),
    ("stopping", Event.STARTED, "starting"),
    ("error", Event.STOPPED, "napping"),
    ("error", Event.STARTED, "starting"),
    ("error", Event.WAKE, "starting"),
]


@pytest.mark.parametrize(("state", "event", "after"), ROWS)
def test_each_row_of_the_table(state: FlowState, event: Event, after: FlowState) -> None:
    assert transition(state, event) == after


def test_whatever_is_not_in_the_table_changes_nothing() -> None:
    for state, event in product(get_args(FlowState), Event):
        if (state, event) not in TABLE:
            assert transition(state, event) == state


def test_only_readiness_makes_a_flow_ready() -> None:
    assert [event for (_, event), after in TABLE.items() if after == "ready"] == [Event.READY]


def test_stopping_is_left_only_by_what_the_runtime_says() -> None:
    leaving = {event for (state, event) in TABLE if state == "stopping"}
    assert leaving == {Event.STOPPED, Event.DIED, Event.ENDED, Event.STARTED, Event.RESTARTED, Event.GONE}


@pytest.mark.parametrize(
    ("before", "now", "cause", "operation", "events"),
    [
        # starts
        (None, RUNNING, None, None, [Event.STARTED]),
        (CREATED, RUNNING, None, "wake", [Event.STARTED]),
        (ended(0), AGAIN, None, None, [Event.STARTED]),
        (PAUSED, RUNNING, None, None, [Event.STARTED]),
        (RUNNING, RUNNING, None, None, []),
        (RUNNING, AGAIN, None, None, [Event.RESTARTED]),
        (RUNNING, RESTARTING, "exit", None, [Event.RESTARTED]),
        (RESTARTING, RESTARTING, "exit", None, []),
        (RESTARTING, AGAIN, None, None, [Event.STARTED]),
        # ends
        (RUNNING, ended(1), "exit", None, [Event.DIED]),
        (RUNNING, ended(1), None, None, [Event.DIED]),
        (RUNNING, ended(0), "exit", None, [Event.ENDED]),
        (RUNNING, ended(137), "stop", None, [Event.STOPPED]),
        (RUNNING, ended(None), None, None, [Event.STOPPED]),
        (RUNNING, ended(0, oom=True), "oom", None, [Event.DIED]),
        (RUNNING, ended(143), None, "sleep", [Event.STOPPED]),
        (RUNNING, ended(143), "stop", "stop", [Event.STOPPED]),
        (RUNNING, ended(127), None, "wake", [Event.DIED]),
        (RUNNING, PAUSED, None, None, [Event.STOPPED]),
        (PAUSED, PAUSED, None, None, []),
        (RUNNING, None, None, None, [Event.GONE]),
        (RUNNING, GONE, None, None, [Event.GONE]),
        # nothing new
        (ended(1), ended(1), None, None, []),
        (ended(1), ended(1), "stop", None, []),
        (None, ended(1), None, None, []),
        (None, CREATED, None, None, []),
        # a whole run between two looks
        (ended(0), ended(1, of=AGAIN), "exit", None, [Event.RESTARTED, Event.DIED]),
        (RUNNING, ended(0, of=AGAIN), "exit", None, [Event.RESTARTED, Event.ENDED]),
        (CREATED, ended(127, of=RUNNING), "exit", None, [Event.RESTARTED, Event.DIED]),
        # health
        (RUNNING, replace(RUNNING, health="unhealthy"), None, None, [Event.UNHEALTHY]),
        (replace(RUNNING, health="unhealthy"), replace(RUNNING, health="unhealthy"), None, None, []),
        (RUNNING, replace(RUNNING, health="healthy"), None, None, []),
    ],
)
def test_what_the_runtime_says_becomes_events(
    before: Observation | None, now: Observation | None, cause: str | None, operation: str | None, events: list[Event]
) -> None:
    assert list(on_observation(before, now, cause, operation)) == events


@pytest.mark.parametrize(
    ("operation", "event"),
    [
        ("stop", Event.STOP_BEGINS),
        ("kill", Event.STOP_BEGINS),
        ("pause", Event.STOP_BEGINS),
        ("restart", Event.STOP_BEGINS),
        ("start", Event.WAKE),
        ("unpause", Event.WAKE),
        ("wake", None),
        ("sleep", None),
        ("create", None),
        ("delete", None),
    ],
)
def test_what_the_begin_of_an_operation_means(operation: str, event: Event | None) -> None:
    assert on_operation_begin(operation) == event


@pytest.mark.parametrize(
    ("operation", "failed", "runs", "event"),
    [
        ("stop", False, False, Event.STOPPED),
        ("stop", False, True, None),
        ("stop", True, True, None),
        ("sleep", False, True, None),  # it was in use again
        ("start", True, False, Event.FAILED),
        ("start", True, True, None),
        ("start", False, True, None),
        ("delete", False, False, None),
    ],
)
def test_what_the_end_of_an_operation_means(operation: str, failed: bool, runs: bool, event: Event | None) -> None:
    assert on_operation_end(operation, failed=failed, runs=runs) == event
