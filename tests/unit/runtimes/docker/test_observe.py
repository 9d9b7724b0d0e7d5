from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from flow_manager.runtimes.docker.identity import Identity
from flow_manager.runtimes.docker.observe import observe, parse_time

LABELS = {"flow-manager.id": "abcdefghijkl", "flow-manager.name": "web", "team": "blue"}


def inspected(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "Id": "f00",
        "Name": "/flow-abcdefghijkl",
        "Created": "2026-01-19T10:30:00.123456789Z",
        "State": {"Status": "running", "Running": True, "ExitCode": 0, "Error": "", "OOMKilled": False, "StartedAt": "2026-01-19T10:30:01Z"},
        "Config": {"Image": "alpine:3", "Labels": dict(LABELS)},
        "NetworkSettings": {
            "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}], "443/tcp": None},
            "Networks": {"backend": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": "fd00::2"}, "flow-manager-lab": {"IPAddress": "10.1.0.3"}},
        },
    }  # fmt: skip
    return {**data, **changes}


def test_a_running_container_is_seen_whole() -> None:
    seen = observe(inspected())
    assert (seen.id, seen.runtime_id, seen.name, seen.state) == ("abcdefghijkl", "f00", "web", "running")
    assert seen.created_at == datetime(2026, 1, 19, 10, 30, 0, 123456, UTC)
    assert seen.started_at == datetime(2026, 1, 19, 10, 30, 1, tzinfo=UTC)
    assert seen.exit_code is None
    assert seen.ports == {"80/tcp": 32768}
    assert seen.addresses == ("10.1.0.3", "10.0.0.2", "fd00::2")
    assert seen.labels == LABELS


def test_an_exit_code_is_there_only_after_the_end() -> None:
    assert observe(inspected(State={"Status": "exited", "ExitCode": 3})).exit_code == 3
    assert observe(inspected(State={"Status": "exited", "ExitCode": 137, "OOMKilled": True})).oom_killed
    assert observe(inspected(State={"Status": "created", "ExitCode": 0})).exit_code is None


@pytest.mark.parametrize("status", ["healthy", "unhealthy", "starting", "none"])
def test_health_is_the_engines(status: str) -> None:
    assert observe(inspected(State={"Status": "running", "Health": {"Status": status}})).health == status


@pytest.mark.parametrize(
    "changes",
    [
        {"State": None},
        {"State": {}},
        {"State": {"Status": 7, "ExitCode": "no", "Health": None, "StartedAt": 0}},
        {"NetworkSettings": None},
        {"NetworkSettings": {"Ports": None, "Networks": None}},
        {"NetworkSettings": {"Ports": {"80/tcp": [None, {}, {"HostPort": ""}, {"HostPort": "x"}, {"HostPort": "99999"}]}}},
        {"NetworkSettings": {"Ports": [], "Networks": {"a": None, "b": {"IPAddress": ""}}}},
        {"Created": "yesterday", "Name": None, "Id": None},
    ],
)  # fmt: skip
def test_missing_and_odd_fields_are_survived(changes: dict[str, Any]) -> None:
    seen = observe(inspected(**changes))
    assert seen.id == "abcdefghijkl"
    assert all(1 <= port <= 65535 for port in seen.ports.values())


def test_an_unknown_state_is_told_by_whether_it_runs() -> None:
    assert observe(inspected(State={"Status": "hibernating", "Running": True})).state == "running"
    assert observe(inspected(State={"Status": "vanished", "Running": False})).state == "exited"


@pytest.mark.parametrize("data", [None, [], {}, {"Config": None}, {"Config": {"Labels": {"other": "x"}}}])
def test_what_is_no_flow_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="label"):
        observe(data)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("2026-01-19T10:30:00Z", datetime(2026, 1, 19, 10, 30, tzinfo=UTC)),
        ("2026-01-19T10:30:00.5Z", datetime(2026, 1, 19, 10, 30, 0, 500000, UTC)),
        ("2026-01-19T11:30:00.123456789+01:00", datetime(2026, 1, 19, 10, 30, 0, 123456, UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("2026-13-45", None),
    ],
)
def test_times_are_aware_and_in_utc(given: Any, wanted: datetime | None) -> None:
    assert parse_time(given) == wanted


def test_one_that_others_made_brings_what_the_manager_did_not_choose() -> None:
    data = {
        "Id": "c1",
        "Name": "/shop_web_1",
        "Config": {"Labels": {"flow-manager.name": "web"}, "Env": ["A=1", "B=x=y", "C=", "odd", 7]},
        "HostConfig": {
            "PortBindings": {
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                "81/tcp": [{"HostPort": ""}],
                "82/tcp": None,
                "83/tcp": [{"HostPort": "99999"}],
            }
        },
    }
    seen = observe(data, Identity("abcdefghijkl", True))
    assert (seen.id, seen.name, seen.adopted) == ("abcdefghijkl", "shop_web_1", True)
    assert seen.environment == {"A": "1", "B": "x=y", "C": ""}
    assert seen.published == {"80/tcp": 8080, "81/tcp": 0, "83/tcp": 0}
    assert observe({"Config": {"Env": None}}, Identity("abcdefghijkl", True)).environment == {}
