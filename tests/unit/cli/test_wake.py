"""sleep, wake, idle and explain, and the idle policy of create."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flow_manager.cli import lifecycle
from flow_manager.cli.explain import span

EXPLANATION: dict[str, Any] = {
    "container_id": "abcdefghijkl",
    "name": "reports",
    "flow_state": "ready",
    "desired": "running",
    "idle": None,
    "leases": [],
    "sleeps_in": None,
    "sleeps_at": None,
    "last_slept": None,
    "last_woke": None,
    "crashes": 0,
    "retry_in": None,
    "waiting_for": None,
    "error": None,
    "summary": "it never sleeps",
}
POLICY: dict[str, Any] = {
    "idle_timeout": 300.0,
    "stop_method": "pause",
    "stop_timeout": 10.0,
    "wake_timeout": 180.0,
    "depends_on": [{"container": "db", "condition": "healthy"}],
    "no_loading_page": False,
    "probes": [],
}


def explains(service: Any, **changes: Any) -> None:
    for event in ("explain_container", "set_idle_policy"):
        service.answers[event] = {"error": False, "data": {**EXPLANATION, **changes}}


def test_sleep_and_wake_tell_the_flow_state(service, run, fake) -> None:
    service.answers["sleep_container"] = {"error": False, "data": {**fake.STATUS, "flow_state": "napping"}}
    assert run("sleep", "a", "--url", service.url).stdout == "reports napping\n"
    assert run("wake", "a", "--url", service.url).stdout == "reports ready\n"


def _step(number: int, kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "timestamp": "2026-01-19T10:30:00.000Z", "id": number, "error": None}


@pytest.mark.parametrize("verb", [("wake", "reports"), ("start", "reports", "--wait")])
def test_at_a_terminal_the_steps_of_a_wake_are_shown_on_standard_error_while_it_is_waited_for(
    service, run, monkeypatch, verb: tuple[str, ...]
) -> None:
    under_way = [_step(1, "starting", "waking reports"), _step(2, "waking_dep", "waking db\x1b[2J, which it needs")]
    service.answers["subscribe_wake_events"] = {"error": False, "data": {"history": under_way}}
    shown = run(*verb, "--url", service.url)
    assert (shown.exit_code, shown.stderr) == (0, ""), "not a terminal"
    assert service.requests("subscribe_wake_events") == []
    monkeypatch.setattr(lifecycle, "at_terminal", lambda: True)
    shown = run(*verb, "--url", service.url, "--json")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert service.requests("subscribe_wake_events") == []
    shown = run(*verb, "--url", service.url)
    assert shown.stderr == "  waking reports\n  waking db[2J, which it needs\n"
    assert shown.stdout in ("reports ready\n", "reports running\n")
    assert len(service.requests("unsubscribe_wake_events")) == 1


def test_what_does_not_wait_shows_no_steps_nor_those_of_an_earlier_wake(service, run, monkeypatch) -> None:
    monkeypatch.setattr(lifecycle, "at_terminal", lambda: True)
    over = [_step(1, "starting", "waking reports"), _step(2, "ready", "reports is ready")]
    service.answers["subscribe_wake_events"] = {"error": False, "data": {"history": over}}
    assert run("wake", "reports", "--url", service.url).stderr == ""
    for verb in (("wake", "reports", "--no-wait"), ("start", "reports"), ("stop", "reports")):
        assert run(*verb, "--url", service.url).stderr == ""
    assert len(service.requests("subscribe_wake_events")) == 1


def test_explain_says_why_it_is_awake_and_when_it_sleeps(service, run) -> None:
    explains(
        service,
        idle=POLICY,
        leases=[
            {"kind": "http", "holder": "10.0.0.9", "age": 3.25, "expires_in": None},
            {"kind": "websocket", "holder": "evil\x1b[2J", "age": 400, "expires_in": 30},
        ],
        last_slept={"at": "2026-01-19T10:30:00.000Z", "reason": "idle for 300 s"},
        last_woke={"at": "2026-01-19T10:31:00.000Z", "reason": "GET /", "took": 1.5},
        summary="2 uses hold it",
    )
    done = run("explain", "reports", "--url", service.url)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "reports (abcdefghijkl) is ready: 2 uses hold it"
    assert "policy: paused after 5 min without use; needs db (healthy); a wake fails after 3 min" in lines
    assert ["http", "10.0.0.9", "3.2", "s", "it", "ends"] in [line.split() for line in lines]
    assert any(line.split()[:2] == ["websocket", "evil[2J"] and "30 s without use" in line for line in lines)
    assert "doesn't sleep while it is in use" in lines
    assert any(line.startswith("last slept ") and line.endswith("ago: idle for 300 s") for line in lines)
    assert any(line.startswith("last woke ") and line.endswith("ago: GET /, took 1.5 s") for line in lines)
    assert "\x1b" not in done.stdout


def test_explain_tells_of_a_stop_an_error_and_the_next_try(service, run) -> None:
    explains(
        service,
        flow_state="error",
        desired="stopped",
        error="exit code 3",
        crashes=2,
        retry_in=12,
        waiting_for="tcp 5432",
        sleeps_in=75,
        sleeps_at="2026-01-19T10:30:00.000Z",
    )
    out = run("explain", "reports", "--url", service.url).stdout
    for words in (
        "somebody stopped it",
        "policy: none; it never sleeps, and traffic doesn't wake it",
        "waits for: tcp 5432",
        "error: exit code 3",
        "failures in a row: 2",
        "may be woken again in 12 s",
        "sleeps in 1 min 15 s (at ",
    ):
        assert words in out


def test_explain_as_json_is_the_replys_data(service, run) -> None:
    explains(service)
    assert json.loads(run("explain", "a", "--json", "--url", service.url).stdout) == EXPLANATION


def test_idle_changes_what_is_given_and_leaves_the_rest(service, run) -> None:
    explains(service, idle=POLICY)
    done = run("idle", "reports", "--timeout", "10m", "--method", "stop", "--url", service.url)
    assert done.exit_code == 0, done.stderr
    [sent] = service.requests("set_idle_policy")
    assert sent["idle"] == {**POLICY, "idle_timeout": 600.0, "stop_method": "stop"}
    assert "is ready" in done.stdout


def test_idle_gives_a_policy_to_a_flow_that_has_none(service, run) -> None:
    explains(service)
    assert run("idle", "a", "--timeout", "0", "--no-loading-page", "--url", service.url).exit_code == 0
    assert service.requests("set_idle_policy")[0]["idle"] == {"idle_timeout": 0, "no_loading_page": True}


def test_idle_takes_a_whole_policy_from_a_file_and_options_win(service, run) -> None:
    explains(service, idle=POLICY)
    text = json.dumps({"idle_timeout": "1h", "probes": [{"path": "/health"}]})
    done = run("idle", "a", "--file", "-", "--ready-http", "8000/up", "--url", service.url, input=text)
    assert done.exit_code == 0, done.stderr
    assert service.requests("set_idle_policy")[0]["idle"] == {
        "idle_timeout": 3600,
        "probes": [{"path": "/health"}],
        "ready": {"http": {"port": 8000, "path": "/up"}},
    }
    assert service.requests("explain_container") == []


def test_a_policy_that_the_service_would_refuse_is_told_by_its_field(service, run) -> None:
    explains(service)
    done = run("idle", "a", "--timeout", "soon", "--method", "hibernate", "--url", service.url)
    assert done.exit_code == 1
    assert "idle.idle_timeout" in done.stderr
    assert "idle.stop_method" in done.stderr


def test_create_takes_an_idle_policy(service, run) -> None:
    done = run(
        "create", "--url", service.url, "--idle-timeout", "5m", "--stop-method", "pause", "--stop-signal", "SIGINT",
        "--stop-timeout", "3", "--wake-timeout", "1m", "--depends-on", "db:healthy", "--depends-on", "cache",
        "--ready-http", "8000", "--ready-delay", "2s", "--ready-channel", "--start-endpoint", "/start",
        "--loading-page", "--port", "8000", "nginx:1",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    sent = service.requests("create_container")[0]
    assert sent["port"] == 8000
    assert sent["idle"] == {
        "idle_timeout": 300,
        "stop_method": "pause",
        "stop_signal": "SIGINT",
        "stop_timeout": 3,
        "wake_timeout": 60,
        "depends_on": [{"container": "db", "condition": "healthy"}, {"container": "cache"}],
        "ready": {"http": {"port": 8000}, "delay": 2, "channel": True},
        "start_endpoint": "/start",
        "no_loading_page": False,
    }


def test_creates_options_are_added_to_the_policy_of_its_file(service, run) -> None:
    config = json.dumps({"image": "alpine", "idle": {"idle_timeout": 60, "stop_method": "kill"}})
    done = run("create", "--file", "-", "--idle-timeout", "90", "--url", service.url, input=config)
    assert done.exit_code == 0, done.stderr
    assert service.requests("create_container")[0]["idle"] == {"idle_timeout": 90, "stop_method": "kill"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.25, "0.2 s"),
        (2, "2 s"),
        (59.6, "1 min"),
        (303, "5 min 3 s"),
        (7440, "2 h 4 min"),
        (7203, "2 h"),
        (262800, "3 d 1 h"),
    ],
)
def test_a_span_has_at_most_two_units(seconds: float, words: str) -> None:
    assert span(seconds) == words
