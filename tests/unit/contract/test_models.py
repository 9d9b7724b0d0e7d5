"""The models of the wire: strict both ways."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from flow_manager.contract import requests
from flow_manager.contract.activity import Activity
from flow_manager.contract.events import CLIENT_EVENTS, SERVER_EVENTS
from flow_manager.contract.fields import parse_port_key, parse_volume_target
from flow_manager.contract.models import ContainerConfig, ContainerInfo, ContainerStatus, IdlePolicy, MessageDelivery


def test_defaults_are_those_of_the_contract() -> None:
    policy = IdlePolicy()
    assert (policy.idle_timeout, policy.stop_method, policy.stop_timeout, policy.wake_timeout) == (0, "stop", 10, 180)
    send = requests.SendMessage(container_id="x", message={})
    assert (send.expect_reply, send.timeout, send.wake) == (False, 30, False)
    assert requests.KillContainer(container_id="x").signal == "SIGKILL"
    assert requests.ListActivity().limit == 100
    assert requests.CreateContainer(image="a").start is False


def test_the_wire_names_of_the_models_are_those_of_the_contract() -> None:
    assert set(ContainerInfo.model_fields) == {
        "id",
        "name",
        "runtime",
        "runtime_id",
        "status",
        "image",
        "created",
        "socket_path",
        "ports",
        "addresses",
        "hosts",
        "environment",
        "labels",
        "adopted",
        "desired",
        "idle",
    }
    assert set(ContainerStatus.model_fields) == {
        "id",
        "name",
        "state",
        "health",
        "flow_state",
        "desired",
        "uptime",
        "socket_connected",
        "last_communication",
        "resource_usage",
        "exit_code",
        "error",
        "stale",
    }
    assert set(Activity.model_fields) == {
        "cursor",
        "stream",
        "type",
        "container_id",
        "name",
        "actor",
        "message",
        "details",
        "timestamp",
    }
    assert set(ContainerConfig.model_fields) == {
        "proxmox",
        "image",
        "name",
        "environment",
        "volumes",
        "ports",
        "command",
        "working_dir",
        "tty",
        "runtime",
        "labels",
        "networks",
        "resources",
        "hosts",
        "port",
        "idle",
        "code_path",
    }


@pytest.mark.parametrize(
    ("event", "bad"),
    [
        ("get_status", {}),
        ("get_status", {"container_id": 5}),
        ("get_status", {"container_id": ""}),
        ("get_status", {"container_id": "x" * 300}),
        ("stop_container", {"container_id": "x", "timeout": -1}),
        ("stop_container", {"container_id": "x", "timeout": "5"}),
        ("stop_container", {"container_id": "x", "signal": "kill -9"}),
        ("kill_container", {"container_id": "x", "signal": 9}),
        ("send_message", {"container_id": "x", "message": "text"}),
        ("send_message", {"container_id": "x", "message": []}),
        ("send_message", {"container_id": "x"}),
        ("send_message", {"container_id": "x", "message": {}, "timeout": 601}),
        ("list_activity", {"limit": 0}),
        ("list_activity", {"limit": 1001}),
        ("subscribe_activity", {"after": -1}),
        ("subscribe_activity", {"after": 1.5}),
        ("delete_container", {"container_id": "x", "force": "true"}),
        ("start_container", {"container_id": "x", "request_id": "y" * 65}),
        ("list_containers", {"state": "asleep"}),
    ],
)
def test_wrong_requests_are_refused(event: str, bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CLIENT_EVENTS[event].request.model_validate(bad)


def test_every_mutating_event_takes_a_request_id_and_no_reading_one_does() -> None:
    for event in CLIENT_EVENTS.values():
        assert ("request_id" in event.request.model_fields) == (event.scope == "write"), event.name


def test_times_are_iso_with_z() -> None:
    entry = Activity(
        cursor=1,
        stream="s",
        type="t",
        container_id=None,
        name=None,
        actor="a",
        message="m",
        details={},
        timestamp=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
    )
    assert entry.model_dump(mode="json")["timestamp"] == "2026-01-02T03:04:05.678Z"


def test_ports_and_volume_targets_are_read() -> None:
    assert parse_port_key("80") == (80, "tcp") and parse_port_key("53/udp") == (53, "udp")
    assert parse_volume_target("/data") == ("/data", False) and parse_volume_target("/data:ro") == ("/data", True)


def test_no_event_has_a_name_that_the_protocol_reserves() -> None:
    reserved = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
    assert not reserved & (set(CLIENT_EVENTS) | set(SERVER_EVENTS))


def test_a_create_request_gives_its_config() -> None:
    request = requests.CreateContainer(image="a:1", name="web", start=True, request_id="r")
    assert request.config() == ContainerConfig(image="a:1", name="web")


def test_a_reply_is_told_only_where_there_was_one_and_may_be_null() -> None:
    none = MessageDelivery(message_id="m", delivered=True, queued=False)
    assert none.model_dump(mode="json") == {"message_id": "m", "delivered": True, "queued": False}
    assert "reply" not in none.model_dump_json()
    null = MessageDelivery(message_id="m", delivered=True, queued=False, reply=None)
    assert null.model_dump(mode="json")["reply"] is None


def test_a_port_that_is_named_twice_is_refused_and_not_dropped_in_silence() -> None:
    with pytest.raises(ValidationError, match="'80' and '80/tcp' are the same port"):
        requests.CreateContainer.model_validate({"image": "a", "ports": {"80": 8080, "80/tcp": 9090}})
    both = requests.CreateContainer.model_validate({"image": "a", "ports": {"80": 0, "80/udp": 0}})
    assert len(both.ports) == 2
