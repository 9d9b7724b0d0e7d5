"""One table decides what the engine's words mean; here are the words, as engines 20.10 to 28 say them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiodocker.exceptions import DockerError, DockerStreamError

from flow_manager import errors
from flow_manager.runtimes.docker.errors import Subject, repeatable, translate, translated

CREATE = Subject("abcdefghijkl", name="web", image="alpine:3", operation="create")
START = Subject("abcdefghijkl", operation="start")
OTHER = Subject("abcdefghijkl", signal="SIGX")

TABLE: list[tuple[Subject, int, str, type[errors.FlowManagerError], dict[str, Any]]] = [
    (CREATE, 404, "No such image: alpine:3", errors.ImageNotFound, {"image": "alpine:3"}),
    (CREATE, 409, 'Conflict. The container name "/web" is already in use by container "f00". You have to remove (or rename) that container to be able to reuse that name.', errors.NameConflict, {"name": "web"}),
    (CREATE, 500, "mkdir /var/lib/docker/overlay2/x: no space left on device", errors.NoSpace, {}),
    (CREATE, 400, 'invalid mount config for type "bind": bind source path does not exist: /nope', errors.RuntimeRefused, {}),
    (CREATE, 400, "Minimum memory limit allowed is 6MB", errors.RuntimeRefused, {}),
    (CREATE, 500, "something broke", errors.RuntimeUnavailable, {"reason": "something broke"}),
    (START, 500, "driver failed programming external connectivity on endpoint web (1f): Bind for 127.0.0.1:8080 failed: port is already allocated", errors.PortInUse, {"port": 8080}),
    (START, 500, "driver failed programming external connectivity on endpoint web (1f): Error starting userland proxy: listen tcp4 127.0.0.1:8081: bind: address already in use", errors.PortInUse, {"port": 8081}),
    (START, 500, "failed to set up container networking: driver failed programming external connectivity on endpoint web (1f): failed to bind host port for 127.0.0.1:8082:172.17.0.2:80/tcp: address already in use", errors.PortInUse, {"port": 8082}),
    (START, 400, 'OCI runtime create failed: container_linux.go:380: starting container process caused: exec: "nope": executable file not found in $PATH: unknown', errors.StartFailed, {"exit_code": 127}),
    (START, 400, 'failed to create task for container: OCI runtime create failed: exec: "/etc/passwd": permission denied: unknown', errors.StartFailed, {"exit_code": 126}),
    (START, 404, "No such container: f00", errors.ContainerNotFound, {"container_id": "abcdefghijkl"}),
    (START, 409, "container is marked for removal and cannot be started", errors.ContainerNotFound, {}),
    (OTHER, 409, "Cannot kill container: f00: Container f00 is not running", errors.ContainerStopped, {}),
    (OTHER, 400, "Invalid signal: SIGX", errors.InvalidRequest, {}),
    (OTHER, 409, "Container f00 is already paused", errors.Conflict, {}),
    (OTHER, 500, "Container f00 is not paused", errors.Conflict, {}),
    (OTHER, 409, "You cannot remove a running container f00. Stop the container before attempting removal or force remove", errors.ContainerRunning, {"state": "running"}),
    (OTHER, 409, "You cannot remove a paused container f00. Unpause and then stop the container", errors.ContainerRunning, {"state": "paused"}),
    (OTHER, 409, "removal of container f00 is already in progress", errors.Conflict, {}),
    (OTHER, 500, "tried to kill container, but did not receive an exit event", errors.StopFailed, {}),
    (OTHER, 404, "network lab not found", errors.RuntimeRefused, {}),
    (OTHER, 503, "", errors.RuntimeUnavailable, {}),
    (OTHER, 900, "Cannot connect to Docker Engine via unix:///x [nobody there]", errors.RuntimeUnavailable, {}),
    (Subject(image="alpine:3", operation="pull"), 500, "Get https: dial tcp: lookup: no such host", errors.ImageNotFound, {"image": "alpine:3"}),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "status", "message", "wanted", "details"), TABLE)
def test_the_engines_words_become_our_errors(
    subject: Subject, status: int, message: str, wanted: type[errors.FlowManagerError], details: dict[str, Any]
) -> None:
    error = translate(DockerError(status, message), subject)
    assert type(error) is wanted
    assert {key: error.details.get(key) for key in details} == details


@pytest.mark.parametrize(
    "raw",
    [
        TimeoutError(),
        TimeoutError(),
        AssertionError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut off"),
        ConnectionRefusedError(111, "refused"),
        ValueError("not JSON"),
        TypeError("not an object"),
        KeyError("message"),
        DockerStreamError("broken", status=0),
    ],
)
def test_whatever_the_libraries_raise_is_an_engine_that_does_not_answer(raw: Exception) -> None:
    with pytest.raises(errors.RuntimeUnavailable) as caught, translated():
        raise raw
    assert caught.value.kind == "docker"
    assert caught.value.error_type == "docker_api_error"
    assert caught.value.details["reason"]


def test_an_error_of_ours_is_left_as_it_is() -> None:
    ours = errors.StopFailed("no")
    assert translate(ours) is ours


def test_cancellation_is_no_failure() -> None:
    with pytest.raises(asyncio.CancelledError), translated():
        raise asyncio.CancelledError


def test_a_long_message_is_cut() -> None:
    assert len(translate(DockerError(400, "x" * 100_000)).message) < 1000


@pytest.mark.parametrize(
    ("raw", "again"),
    [
        (DockerError(900, "Cannot connect"), True),
        (DockerError(500, "something broke"), True),
        (DockerError(503, "later"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (DockerError(404, "No such container: x"), False),
        (DockerError(409, "is not running"), False),
        (DockerError(500, "Container f00 is not paused"), False),
        (DockerError(500, "no space left on device"), False),
        (TimeoutError(), False),
        (errors.StopFailed("no"), False),
    ],
)
def test_only_what_may_be_gone_next_time_is_tried_again(raw: Exception, again: bool) -> None:
    assert repeatable(raw) is again
