"""Refusals over HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from flow_manager.contract.models import FlowState
from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    DependencyFailed,
    RuntimeUnavailable,
    ShuttingDown,
    StartFailed,
    WakeTimeout,
)
from flow_manager.proxy.problems import MAX_DETAIL, Problem, of_error, readable


@dataclass
class Flow:
    name: str = "web"
    state: FlowState = "error"
    seconds: int = 7

    def retry_after(self) -> int:
        return self.seconds


def read(problem: Problem) -> dict[str, object]:
    found: dict[str, object] = json.loads(problem.body())
    return found


def header(problem: Problem, name: bytes) -> bytes | None:
    found = [value for key, value in problem.headers() if key.lower() == name.lower()]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_problem_has_the_members_of_the_standard_and_ours() -> None:
    problem = Problem(503, "start_failed", "exit code 3").about(Flow(), retry=True)
    assert read(problem) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "exit code 3",
        "code": "start_failed",
        "flow": "web",
        "flow_state": "error",
        "retry_after": 7,
    }
    assert header(problem, b"content-type") == b"application/problem+json"
    assert header(problem, b"retry-after") == b"7"
    assert header(problem, b"x-flow-state") == b"error"
    assert header(problem, b"cache-control") == b"no-store"


def test_members_that_are_not_known_are_left_out() -> None:
    problem = Problem(404, "container_not_found", "no such host")
    assert set(read(problem)) == {"type", "title", "status", "detail", "code"}
    assert header(problem, b"retry-after") is None
    assert header(problem, b"x-flow-state") is None


def test_an_extra_member_never_replaces_one_of_the_standard() -> None:
    assert read(Problem(503, "c", "d", extra={"status": 200, "exit_code": 3}))["status"] == 503


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (WakeTimeout("not ready", waited_for="tcp 80", timeout=3.0), 504, "wake_timeout"),
        (StartFailed("it ended", exit_code=3), 503, "start_failed"),
        (DependencyFailed("db failed", dependency="db"), 503, "dependency_failed"),
        (Conflict("somebody stopped it", desired="stopped"), 503, "conflict"),
        (RuntimeUnavailable("engine is down", kind="docker"), 503, "runtime_unavailable"),
        (ShuttingDown("ends"), 503, "shutting_down"),
        (ContainerNotFound("web", kind="docker"), 404, "container_not_found"),
        (ValueError("a secret of ours"), 500, "internal"),
    ],
)
def test_every_failed_wake_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    problem = of_error(error, Flow())
    assert (problem.status, problem.code) == (status, code)
    assert "secret" not in json.dumps(read(problem))


def test_a_failed_wake_says_when_to_come_back() -> None:
    assert of_error(StartFailed("it ended"), Flow(seconds=9)).retry_after == 9


@pytest.mark.parametrize(("given", "told"), [(2.2, 3), (0, 1), (-4, 1), (12, 12)])
def test_an_error_that_knows_better_decides_when_to_come_back(given: float, told: int) -> None:
    assert of_error(StartFailed("it ended", retry_after=given), Flow()).retry_after == told


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, "soon"])
def test_an_odd_retry_after_falls_back_to_what_was_learned(odd: object) -> None:
    assert of_error(StartFailed("it ended", retry_after=odd), Flow(seconds=5)).retry_after == 5


def test_a_stopped_flow_is_not_worth_waiting_for() -> None:
    assert of_error(Conflict("somebody stopped it", desired="stopped"), Flow()).retry_after is None


def test_reasons_reach_an_operator_and_other_details_do_not() -> None:
    error = DependencyFailed("db failed", dependency="db", reason="exit code 1", host_path="/srv/secret", exit_code=1)
    told = read(of_error(error, Flow(), frank=True))
    assert (told["dependency"], told["reason"], told["exit_code"]) == ("db", "exit code 1", 1)
    assert "host_path" not in told


def test_text_that_is_no_text_becomes_readable() -> None:
    nasty = "a\r\nSet-Cookie: x=1\x00\x1b[31m\ud800\u2028z"
    told = read(of_error(StartFailed(nasty, reason=nasty), Flow(), frank=True))
    for member in ("detail", "reason"):
        text = str(told[member])
        assert text.isprintable()
        assert text.startswith("a") and text.endswith("z")


def test_an_endless_text_is_cut() -> None:
    assert len(readable("x" * 10_000)) == MAX_DETAIL
    assert readable("x" * 10_000).endswith("…")


def test_retry_after_is_never_less_than_a_second() -> None:
    assert header(Problem(503, "c", "d", retry_after=0), b"retry-after") == b"1"
