"""The two shapes of a reply, and each error's wire form."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from flow_manager import errors
from flow_manager.contract.models import ContainerConfig
from flow_manager.contract.replies import failure, invalid_request, success, to_wire
from flow_manager.contract.requests import CreateContainer

# Section 3 of the wire contract, by heart: a code's error_type is part of the promise.
PROMISED = {
    "validation_error": {"invalid_request", "unknown_event", "payload_too_large"},
    "docker_api_error": {
        "container_not_found",
        "image_not_found",
        "name_conflict",
        "port_in_use",
        "runtime_unavailable",
        "no_space",
        "unsupported",
        "exec_failed",
        "runtime_refused",
    },
    "socket_communication_error": {"not_connected", "timeout", "frame_too_large", "queue_full"},
    "state_error": {
        "conflict",
        "dependency_failed",
        "wake_timeout",
        "container_stopped",
        "container_running",
        "start_failed",
        "stop_failed",
        "timeout",
    },
    "permission_error": {"unauthorized", "forbidden", "path_not_allowed", "image_not_allowed", "not_allowed"},
    "limit_error": {"rate_limited", "quota_exceeded", "too_many_streams"},
    "system_error": {"internal", "disk_full", "shutting_down"},
}


def leaves(kind: type[errors.FlowManagerError]) -> list[type[errors.FlowManagerError]]:
    # Other modules may refine one of them; codes and types are those of errors.py alone.
    below = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [leaf for sub in below for leaf in leaves(sub)] if below else [kind]


def make(kind: type[errors.FlowManagerError]) -> errors.FlowManagerError:
    extra = {"kind": "docker"} if issubclass(kind, errors.RuntimeFailure) else {}
    if kind is errors.Unsupported:
        extra["capability"] = "pause"
    return kind("what happened", **extra)


def test_every_error_has_the_type_and_code_of_the_contract() -> None:
    found: dict[str, set[str]] = {}
    for kind in leaves(errors.FlowManagerError):
        error = make(kind)
        found.setdefault(error.error_type, set()).add(error.code)
    assert found == PROMISED


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        ("docker", "docker_api_error"),
        ("proxmox", "proxmox_api_error"),
        ("process", "process_error"),
        ("memory", "memory_error"),
    ],
)
def test_a_runtimes_failure_carries_its_own_type(kind: str, error_type: str) -> None:
    assert errors.ContainerNotFound("x", kind=kind).error_type == error_type


def test_a_failure_is_the_error_object() -> None:
    at = datetime(2026, 1, 19, 10, 30, tzinfo=UTC)
    assert failure(errors.NameConflict("taken", kind="docker", name="web", other=None), at=at) == {
        "error": True,
        "error_type": "docker_api_error",
        "code": "name_conflict",
        "message": "taken",
        "details": {"name": "web"},
        "timestamp": "2026-01-19T10:30:00Z",
    }


def test_a_success_carries_plain_data() -> None:
    assert success(None) == {"error": False, "data": {}}
    config = ContainerConfig(image="a")
    assert success([config])["data"] == [to_wire(config)]


def test_an_invalid_request_names_each_field_but_never_its_value() -> None:
    with pytest.raises(ValidationError) as refused:
        CreateContainer.model_validate({"image": 5, "name": "hunter22 SECRET", "nonsense": "hunter22"})
    error = invalid_request(refused.value)
    assert {field["path"] for field in error.details["fields"]} == {"image", "name", "nonsense"}
    assert "hunter22" not in str(failure(error))


def test_codes_that_may_be_gone_at_the_next_try_are_the_transient_ones() -> None:
    from flow_manager.containers.repeats import TRANSIENT_CODES

    assert {kind.code for kind in leaves(errors.FlowManagerError) if kind.transient} == set(TRANSIENT_CODES)


def test_reasons_are_in_words_of_ours() -> None:
    from flow_manager.contract.requests import OneContainer

    for model, data, reason in (
        (CreateContainer, {"image": "a", "request_id": "x" * 65}, "String should have at most 64 characters"),
        (CreateContainer, {"image": "a", "name": "-"}, "a name is a DNS label"),
        (OneContainer, [], "Input should be an object"),
    ):
        with pytest.raises(ValidationError) as refused:
            model.model_validate(data)
        assert invalid_request(refused.value).details["fields"][0]["reason"].startswith(reason)


def test_of_a_request_that_is_wrong_in_thousands_of_places_none_is_listed() -> None:
    with pytest.raises(ValidationError) as caught:
        CreateContainer.model_validate({"image": "x", **{f"field_{number}": 1 for number in range(3000)}})
    refusal = invalid_request(caught.value)
    assert refusal.details["fields"] == [{"path": "(request)", "reason": "3000 of its values are refused"}]
