from __future__ import annotations

from typing import Any

import pytest

from flow_manager.cli.doctor.elsewhere import elsewhere
from flow_manager.settings.models import Settings

URL = "tcp://docker.example:2376"
OPEN = {"tls_listen": "0.0.0.0:8082", "tls_address": "manager.example:8082"}
REACHED = {"publish_address": "0.0.0.0"}


def found(environ: dict[str, str] | None = None, **settings: Any) -> list[tuple[str, str, str]]:
    findings = elsewhere(Settings.model_validate({"state_dir": "/s", "sockets_dir": "/k", **settings}), environ or {})
    return [(finding.level, finding.about, f"{finding.text} {finding.mend}") for finding in findings]


@pytest.mark.parametrize(
    ("environ", "runtimes"),
    [
        ({}, {}),
        ({}, {"lab": {"kind": "docker"}}),
        ({"DOCKER_HOST": URL}, {"docker": {"url": "unix:///x"}}),
        ({}, {"process": {}}),
        ({"DOCKER_HOST": URL}, {"docker": {"remote": False}}),
    ],
)
def test_an_engine_of_this_machine_is_no_matter(environ: dict[str, str], runtimes: dict[str, Any]) -> None:
    assert found(environ, runtimes=runtimes) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": REACHED}, "tls_listen"),
        ({"policy": REACHED, "channel": {"tls_listen": "127.0.0.1:8082"}}, "loopback: 127.0.0.1"),
        ({"policy": REACHED, "channel": OPEN | {"tls_address": "[::1]:8082"}}, "loopback: ::1"),
        ({"channel": OPEN}, "policy.publish_address"),
    ],
)
def test_what_flows_of_another_machine_lack_is_told_with_the_remedy(settings: dict[str, Any], words: str) -> None:
    ((level, about, text),) = found(runtimes={"far": {"kind": "docker", "url": URL}}, **settings)
    assert (level, about) == ("warning", "runtime far")
    assert words in text


def test_a_tunnels_end_is_no_place_where_ports_are_published() -> None:
    far = {"docker": {"url": "tcp://127.0.0.1:2375", "remote": True}}
    ((level, _, text),) = found(channel=OPEN, policy=REACHED, runtimes=far)
    assert level == "warning"
    assert "tunnel" in text
    ((level, _, _),) = found(channel=OPEN, policy={"publish_address": "10.0.0.7"}, runtimes=far)
    assert level == "ok"


def test_with_both_it_is_well_whoever_names_the_engine() -> None:
    ((level, about, text),) = found({"DOCKER_HOST": URL}, channel=OPEN, policy=REACHED)
    assert (level, about) == ("ok", "runtime docker")
    assert URL in text


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("tcp://127.0.0.1:2375", {}),
        (URL, {"state_host_dir": "/srv"}),
        (URL, {"runtimes": {"docker": {"sockets_host_dir": "/srv"}}}),
    ],
)
def test_an_engine_that_is_reached_over_the_network_but_taken_for_this_machines_is_remarked(
    url: str, settings: dict[str, Any]
) -> None:
    ((level, _, text),) = found({"DOCKER_HOST": url}, **settings)
    assert level == "warning"
    assert "remote = true in [runtimes.docker]" in text
