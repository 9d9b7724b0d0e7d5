"""What is known of a container at its end and at its beginning without asking once more, and when it must be asked."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from flow_manager.errors import RuntimeUnavailable
from flow_manager.runtimes.base import LABEL_ID, LABEL_INSTANCE
from flow_manager.runtimes.docker import early_look
from flow_manager.runtimes.docker.client import Answer, EngineClient
from flow_manager.runtimes.docker.containers import Containers, Handle
from flow_manager.runtimes.docker.early_look import EarlyLook

FLOW = "aaaabbbbcccc"
FIRST, SECOND = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"


class Engine:
    """Answers each inspect with what `says` holds then, once `free` is set; what is an exception is raised."""

    def __init__(self) -> None:
        self.says: Any = None
        self.free = asyncio.Event()
        self.asked = asyncio.Event()

    async def long_call(self, _method: str, _path: str, **_options: Any) -> Answer:
        self.asked.set()
        await self.free.wait()
        if isinstance(self.says, Exception):
            raise self.says
        return Answer(200, self.says, {})


def container(started: str = FIRST, status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Name": "/web",
        "State": {"Status": status, "StartedAt": started, "ExitCode": 0, **more.pop("State", {})},
        "Config": {"Image": "busybox", "Labels": {LABEL_ID: FLOW, LABEL_INSTANCE: "i"}},
        "NetworkSettings": {"Networks": {"n": {"IPAddress": "172.18.0.2"}}, **more.pop("NetworkSettings", {})},
        **more,
    }


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def containers(engine: Engine) -> Containers:
    return Containers(cast(EngineClient, engine), "i")


def handle(containers: Containers, seen: dict[str, Any]) -> Handle:
    containers.remember(seen)
    found = containers.handle(FLOW)
    assert found is not None
    return found


# --- its end ----------------------------------------------------------------------------------------------------------


def test_a_wait_says_as_much_of_an_end_as_an_inspect(containers: Containers) -> None:
    known = handle(containers, container())
    said = containers.ended(known, {"StatusCode": 3})
    assert said is not None
    assert (said.state, said.exit_code) == ("exited", 3)
    over = container(status="exited", State={"ExitCode": 3}, NetworkSettings={"Networks": {"n": {"IPAddress": ""}}})
    assert said == containers.read_as(over) == containers.last_seen(FLOW)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (container(), {"StatusCode": 137}),
        (container(), {}),
        (container(), None),
        (container(), {"StatusCode": 3, "Error": {"Message": "the disk is full"}}),
        (container(status="exited"), {"StatusCode": 3}),
        (container(status="paused"), {"StatusCode": 3}),
        (container(State={"Health": {"Status": "healthy"}}), {"StatusCode": 3}),
        (container(NetworkSettings={"Ports": {"80/tcp": [{"HostPort": "8080"}]}}), {"StatusCode": 3}),
    ],
)
def test_where_a_wait_does_not_say_enough_an_inspect_is_asked_for(
    containers: Containers, seen: dict[str, Any], told: Any
) -> None:
    known = handle(containers, seen)
    before = containers.last_seen(FLOW)
    assert containers.ended(known, told) is None
    assert containers.last_seen(FLOW) is before


def test_the_end_of_one_whose_place_another_one_took_says_nothing(containers: Containers) -> None:
    old = handle(containers, container())
    handle(containers, container() | {"Id": "c2"})
    assert containers.ended(old, {"StatusCode": 3}) is None


# --- its beginning ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_look, "LOOK_AFTER", 0)


async def looked(containers: Containers, engine: Engine, says: Any) -> Any:
    known = handle(containers, container(FIRST, "exited"))
    async with EarlyLook(containers, known) as look:
        await engine.asked.wait()
        engine.says = says
        engine.free.set()
        return await look.seen()


async def test_what_was_asked_for_during_a_start_tells_of_it(containers: Containers, engine: Engine) -> None:
    seen = await looked(containers, engine, container(SECOND))
    assert seen is not None
    assert seen.running
    assert seen is containers.last_seen(FLOW)


@pytest.mark.parametrize(
    "says",
    [
        container(FIRST),  # asked too early: the run before, not over yet
        container(FIRST, "exited"),
        container(SECOND, "exited"),
        container(""),
        {"Id": "c1", "State": {"Status": "running", "StartedAt": SECOND}},
        None,
        OSError("gone"),
        TimeoutError(),
        RuntimeUnavailable("no", kind="docker"),
    ],
)
async def test_what_may_be_of_another_run_is_not_believed(containers: Containers, engine: Engine, says: Any) -> None:
    assert await looked(containers, engine, says) is None


async def test_nothing_goes_on_when_the_start_fails(containers: Containers, engine: Engine) -> None:
    known = handle(containers, container(FIRST, "exited"))
    with pytest.raises(ZeroDivisionError):
        async with EarlyLook(containers, known):
            await engine.asked.wait()
            raise ZeroDivisionError
    assert [task for task in asyncio.all_tasks() if task.get_name() == "docker-look"] == []


async def test_a_start_that_was_quicker_than_the_look_does_not_wait_for_it(
    containers: Containers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_look, "LOOK_AFTER", 3600)
    known = handle(containers, container(FIRST, "exited"))
    async with EarlyLook(containers, known) as look:
        assert await look.seen() is None
    assert not engine.asked.is_set()
