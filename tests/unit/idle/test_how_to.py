"""The examples of the how-to are taken by the service as they stand."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from flow_manager.containers.labels import read_labels
from flow_manager.contract.models import IdlePolicy
from flow_manager.settings.models import Settings

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "wake-on-demand.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def block(language: str) -> str:
    (found,) = blocks(language)
    return found


def test_the_policy_is_one() -> None:
    policy = IdlePolicy.model_validate(json.loads(block("json")))
    assert (policy.idle_timeout, policy.wake_timeout) == (300, 180)


def test_every_field_of_a_policy_is_told_of() -> None:
    assert [name for name in IdlePolicy.model_fields if f"`{name}`" not in TEXT] == []


def test_the_labels_are_read_without_complaint() -> None:
    labels = dict(re.findall(r'^  (\S+): "(.*)"$', block("yaml"), re.MULTILINE))
    assert len(labels) == 10
    wishes = read_labels(labels)
    assert wishes.unreadable == ()
    assert wishes.idle.ready is not None
    assert len(wishes.idle.probes) == 3


def test_every_label_that_is_named_exists() -> None:
    named = re.search(r"has its label, too: (.*?)\. A label", TEXT, re.DOTALL)
    assert named is not None
    values = {"no-loading-page": "true", "ready-tcp": "5432", "start-endpoint": "/start", "stop-signal": "INT"}
    labels = {f"flow-manager.{name}": values.get(name, "5s") for name in re.findall(r"`(.+?)`", named[1])}
    assert len(labels) == 6
    assert read_labels(labels).unreadable == ()


def test_the_route_and_the_domains_are_settings(tmp_path: Path) -> None:
    route, domains = (
        Settings.model_validate({"state_dir": tmp_path, "sockets_dir": "/tmp/s", **tomllib.loads(text)})
        for text in blocks("toml")
    )
    assert route.tcp_routes[0].port == 5432
    assert domains.proxy.domains[0] == "home.example"


def test_settings_that_are_named_exist() -> None:
    fields = {name: set(field.annotation.model_fields) for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")}  # type: ignore[union-attr]  # fmt: skip
    assert {"linger", "liveness_failures", "liveness_interval"} <= fields["idle"]
    assert {"held_per_flow", "held"} <= fields["proxy"]
