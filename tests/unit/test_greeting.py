"""What a service says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager import greeting
from flow_manager.settings.models import Settings

PLACES: dict[str, Any] = {"state_dir": Path("/s"), "sockets_dir": Path("/k")}
TOLD: dict[str, Any] = {"url": "http://127.0.0.1:8080", "instance": "i", "runtime": "docker", "kind": "docker"}


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("box.local", "box.local")],
)
def test_an_address_is_one_that_a_client_here_can_use(host: str, shown: str) -> None:
    assert greeting.shown(host) == shown


def test_what_is_off_is_not_spoken_of() -> None:
    (line,) = greeting.summary(Settings(**PLACES), **TOLD, proxy_port=0, channel_url="")
    assert "http://127.0.0.1:8080 · runtime docker · instance i · open mode" in line


def test_an_operator_is_told_where_flows_are_served_and_what_isolates_nothing() -> None:
    settings = Settings.model_validate({**PLACES, "proxy": {"domains": ["flows.test"]}})
    told = {**TOLD, "runtime": "local", "kind": "process"}
    lines = greeting.summary(settings, **told, proxy_port=8081, channel_url="tls://10.0.0.1:8443")
    assert any("http://<name>.flows.test:8081" in line for line in lines)
    assert any("tls://10.0.0.1:8443" in line for line in lines)
    assert "isolates nothing" in lines[-1]


def test_an_operator_who_asked_for_no_runtime_is_told_why_it_is_not_docker() -> None:
    told = {**TOLD, "runtime": "process", "kind": "process", "proxy_port": 0, "channel_url": ""}
    assert any("no Docker engine answers" in line for line in greeting.summary(Settings(**PLACES), **told))
    asked = Settings(**PLACES, runtime="process")
    assert not any("Docker" in line for line in greeting.summary(asked, **told))
