from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.glance import agrees

RUNNING = Observation(
    id="f",
    runtime_id="c1",
    name="web",
    state="running",
    addresses=("172.18.0.2",),
    ports={"80/tcp": 8080},
)
ENTRY: dict[str, Any] = {
    "Id": "c1",
    "State": "running",
    "Status": "Up 3 minutes",
    "Ports": [
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8081, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ],
    "NetworkSettings": {"Networks": {"shop": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": ""}}},
}
EXITED = replace(RUNNING, state="exited", exit_code=137, addresses=(), ports={})
LEFT: dict[str, Any] = {"Id": "c1", "State": "exited", "Status": "Exited (137) 2 hours ago", "Ports": [],
                        "NetworkSettings": {"Networks": {"shop": {"IPAddress": ""}}}}  # fmt: skip


def test_what_has_not_changed_needs_no_inspect() -> None:
    assert agrees(ENTRY, RUNNING)
    assert agrees(LEFT, EXITED)
    assert agrees({**ENTRY, "Status": "Up 1 second (healthy)"}, replace(RUNNING, health="healthy"))
    assert agrees({**ENTRY, "Status": "Up 1 second (health: starting)"}, replace(RUNNING, health="starting"))


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        ({**ENTRY, "Id": "c2"}, RUNNING),
        ({**ENTRY, "State": "paused", "Status": "Up 3 minutes (Paused)"}, RUNNING),
        ({**ENTRY, "Status": "Up 3 minutes (unhealthy)"}, replace(RUNNING, health="healthy")),
        ({**ENTRY, "Status": "Up 3 minutes (healthy)"}, RUNNING),
        ({**LEFT, "Status": "Exited (0) 1 second ago"}, EXITED),
        ({**ENTRY, "NetworkSettings": {"Networks": {"shop": {"IPAddress": "172.18.0.3"}}}}, RUNNING),
        ({**ENTRY, "Ports": [{"PrivatePort": 80, "PublicPort": 9999, "Type": "tcp"}]}, RUNNING),
        ({**ENTRY, "Ports": []}, RUNNING),
        ({**ENTRY, "Ports": None}, RUNNING),
        ({}, RUNNING),
        (None, RUNNING),
    ],
)
def test_whatever_differs_is_inspected(entry: Any, seen: Observation) -> None:
    assert not agrees(entry, seen)
