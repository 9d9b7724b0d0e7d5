"""What a failure is called to strangers, and to those who run the place."""

from __future__ import annotations

import json

import pytest

from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    DependencyFailed,
    FlowManagerError,
    ImageNotFound,
    Internal,
    NoSpace,
    PathNotAllowed,
    PortInUse,
    RuntimeRefused,
    RuntimeUnavailable,
    StartFailed,
    WakeTimeout,
)
from flow_manager.proxy.hold import slow_path
from flow_manager.proxy.problems import of_error
from flow_manager.proxy.status import status_of
from flow_manager.proxy.told import words
from tests.unit.proxy.slow_fakes import FakeFlow, FakeRegistry, FakeRequest

# As engines write: a socket, a host path, an id, an address.
ENGINE = "dial unix /run/docker.sock: container 4f66ad9a0b2e: mount /srv/secret to 172.17.0.5:5432 failed"
INTERNAL = ("docker.sock", "/srv/secret", "4f66ad9a0b2e", "172.17.0.5")
BROWSER = (("Accept", "text/html"),)


def failures() -> list[FlowManagerError]:
    return [
        StartFailed(ENGINE, reason=ENGINE),
        StartFailed(ENGINE, reason=ENGINE, exit_code=127),
        RuntimeUnavailable(ENGINE, kind="docker", reason=ENGINE),
        RuntimeRefused(ENGINE, kind="docker"),
        ImageNotFound(ENGINE, kind="docker"),
        NoSpace(ENGINE, kind="docker"),
        PortInUse(ENGINE, kind="docker"),
        PathNotAllowed(ENGINE),
        ContainerNotFound(ENGINE, kind="docker"),
        Internal(ENGINE),
        DependencyFailed(ENGINE, dependency="db", reason=ENGINE),
        WakeTimeout(ENGINE, waited_for="TCP port 80", reason=ENGINE, timeout=30.0),
    ]


def clean(text: str) -> bool:
    return text != "" and not any(word in text for word in INTERNAL)


@pytest.mark.parametrize("error", failures(), ids=lambda error: error.code)
def test_a_stranger_reads_no_word_of_the_engines(error: FlowManagerError) -> None:
    assert clean(of_error(error, FakeFlow(state="error")).body().decode())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StartFailed("x", reason="exit", exit_code=3), "its program ended (exit code 3)"),
        (StartFailed("x", reason="oom"), "it ran out of memory"),
        (StartFailed("x", reason="unhealthy"), "its health check fails"),
        (WakeTimeout("x", waited_for="TCP port 80", timeout=30.0), "not ready within 30 s, waiting for TCP port 80"),
        (DependencyFailed("x", dependency="db", exit_code=1), "a flow that it needs, db, did not wake (exit code 1)"),
        (Conflict("somebody stopped it", desired="stopped"), "somebody stopped it"),
        (None, "it could not be woken"),
    ],
)
def test_the_words_for_strangers_still_help(error: FlowManagerError | None, told: str) -> None:
    assert words(error) == told


@pytest.mark.parametrize("open_mode", [False, True])
@pytest.mark.parametrize(
    ("target", "headers"),
    [("/", ()), ("/", BROWSER), ("/.flow/status", ()), ("/.flow/wait", BROWSER), ("/.flow/wake-events", ())],
)
async def test_only_where_it_is_allowed_the_engines_words_are_shown(
    target: str, headers: tuple[tuple[str, str], ...], open_mode: bool
) -> None:
    flow = FakeFlow()
    error = StartFailed(ENGINE, reason=ENGINE, exit_code=127)
    flow.begin_wake(reason="x")
    flow.finish(error)
    flow.held_back = error
    request = FakeRequest(target=target, headers=headers)
    await slow_path(request, flow, FakeRegistry(flow).context(open_mode=open_mode))  # type: ignore[arg-type]
    assert open_mode or "127" in request.text
    assert clean(request.text) is not open_mode


async def test_a_setting_allows_it_or_forbids_it_whatever_the_mode() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed(ENGINE, reason=ENGINE))
    registry = FakeRegistry(flow)
    assert registry.context(open_mode=False, show_logs=True).frank
    assert not registry.context(open_mode=True, show_logs=False).frank
    assert clean(json.dumps(status_of(flow)))  # type: ignore[arg-type]
    assert not clean(json.dumps(status_of(flow, frank=True)))  # type: ignore[arg-type]
