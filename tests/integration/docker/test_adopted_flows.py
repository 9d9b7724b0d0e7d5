"""Adopted containers on a real engine, with a whole manager and its watchers: they sleep, and people's wishes count."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flow_manager.activity.stream import ActivityStream
from flow_manager.containers.manager import ContainerManager
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import LOCAL
from flow_manager.idle.readiness import Prober
from flow_manager.idle.registry import IdleRegistry
from flow_manager.settings.models import Settings
from flow_manager.testing.core import open_core
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import until
from tests.contract.harness_docker import FOR_EVER, DockerHarness
from tests.engine import BUSYBOX_IMAGE, engine_api

pytestmark = pytest.mark.docker

SLEEP = ["sh", "-c", f"trap 'exit 143' TERM; {FOR_EVER}"]
IDLE = 2.0
# Where it must not fall asleep before the test has done what it is about, however busy the machine is.
LONG = 600.0


class House:
    """A manager with its watchers on the engine, and somebody else beside it who makes containers."""

    def __init__(self, lab: DockerHarness, manager: ContainerManager, registry: IdleRegistry, stream: ActivityStream):
        self.lab, self.manager, self.registry, self.stream = lab, manager, registry, stream

    def status(self, name: str) -> ContainerStatus:
        return self.manager.get_status(LOCAL, requests.OneContainer(container_id=name))

    async def becomes(self, name: str, what: Callable[[ContainerStatus], bool], words: str) -> None:
        async def so() -> bool:
            known = [flow.name for flow in self.manager.list_containers(LOCAL, requests.ListContainers())]
            return name in known and what(self.status(name))

        await until(so, words)

    async def activity(self) -> list[str]:
        return [item.entry.type for item in await self.stream.read(limit=1000)]

    async def tells(self, *types: str) -> None:
        async def told() -> bool:
            return set(types) <= set(await self.activity())

        await until(told, f"{', '.join(types)} is told")


Opens = Callable[[], Any]


@pytest.fixture
async def opens(lab: DockerHarness, provider: Callable[..., Any]) -> AsyncIterator[Opens]:
    folder = Path(tempfile.mkdtemp(prefix="fm-"))

    @asynccontextmanager
    async def open_house(*flows: dict[str, Any]) -> AsyncIterator[House]:
        settings = Settings.model_validate(
            {"state_dir": folder / "state", "sockets_dir": folder / "s", "flows": flows, "runtime": lab.name}
        )
        runtime = await provider(lab, adopt=True, flows=settings.flows)
        async with open_core(settings, runtime, instance=lab.instance) as opened:
            manager = ContainerManager(opened.core)
            registry = IdleRegistry(opened.core, prober=Prober(opened.core.clock))
            await registry.open()
            await manager.open()
            try:
                yield House(lab, manager, registry, opened.stream)
            finally:
                await manager.close(1.0)
                await registry.close()

    yield open_house
    shutil.rmtree(folder)


@pytest.fixture
def name() -> str:
    return f"p{new_flow_id()}"


@pytest.fixture
def container(lab: DockerHarness, name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Somebody else's container, running, that asks to sleep when it is idle; gives its id."""
    idle = getattr(request, "param", IDLE)
    labels = {
        "flow-manager.enable": "true",
        "flow-manager.instance": lab.instance,
        "flow-manager.idle-timeout": f"{idle}s",
        "flow-manager.stop-timeout": "5",
    }
    body = {"Image": BUSYBOX_IMAGE, "Cmd": SLEEP, "Labels": labels}
    made = engine_api.request(lab.host, "POST", "/containers/create", params={"name": name}, body=body)["Id"]
    engine_api.request(lab.host, "POST", f"/containers/{made}/start")
    yield made
    with suppress(engine_api.EngineError):  # the test may have removed it
        engine_api.request(lab.host, "DELETE", f"/containers/{made}", params={"force": 1, "v": 1})


def running(lab: DockerHarness, container: str) -> bool:
    return bool(engine_api.request(lab.host, "GET", f"/containers/{container}/json")["State"]["Running"])


async def test_one_that_runs_already_gets_its_whole_idle_time_then_sleeps_and_wakes(
    lab: DockerHarness, opens: Opens, name: str, container: str
) -> None:
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is adopted as it runs")
        began = time.monotonic()
        await house.becomes(name, lambda status: status.flow_state == "napping", "it falls asleep")
        assert time.monotonic() - began > IDLE * 0.9
        assert not running(lab, container)
        assert house.status(name).desired == "running", "it sleeps; nobody stopped it"
        woken = await house.registry.wake_container(LOCAL, requests.WakeContainer(container_id=name))
        assert (woken.flow_state, running(lab, container)) == ("ready", True)

        await house.tells("container_adopted", "napped", "woke")


async def test_a_restart_of_the_manager_does_not_cut_its_time_short(
    lab: DockerHarness, opens: Opens, name: str, container: str
) -> None:
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is adopted as it runs")
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is found again")
        assert running(lab, container)
        await house.becomes(name, lambda status: status.flow_state == "napping", "it falls asleep")


@pytest.mark.parametrize("container", [LONG], indirect=True)
async def test_what_a_person_stops_stays_stopped_until_a_person_starts_it(
    lab: DockerHarness, opens: Opens, name: str, container: str
) -> None:
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is adopted as it runs")
        # In a thread: a loop that stands still for the length of a stop would let the idle timeout come in between.
        await asyncio.to_thread(engine_api.request, lab.host, "POST", f"/containers/{container}/stop")
        await house.becomes(name, lambda status: status.flow_state == "napping", "the stop is followed")
        await house.becomes(name, lambda status: status.desired == "stopped", "and respected")
        await asyncio.to_thread(engine_api.request, lab.host, "POST", f"/containers/{container}/start")
        await house.becomes(name, lambda status: status.flow_state == "ready", "so is the start")
        await house.becomes(name, lambda status: status.desired == "running", "it is wanted again")


@pytest.mark.parametrize("container", [LONG], indirect=True)
async def test_one_that_is_released_is_left_as_it_is(
    lab: DockerHarness, opens: Opens, name: str, container: str
) -> None:
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is adopted as it runs")
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id=name))
    async with opens() as house:
        assert house.manager.list_containers(LOCAL, requests.ListContainers()) == []
        assert house.registry.watchers() == []
        assert running(lab, container)


@pytest.fixture
def unlabelled(lab: DockerHarness, name: str) -> Iterator[str]:
    """Somebody else's container, running, that asks for nothing; gives its id."""
    body = {"Image": BUSYBOX_IMAGE, "Cmd": SLEEP}
    made = engine_api.request(lab.host, "POST", "/containers/create", params={"name": name}, body=body)["Id"]
    engine_api.request(lab.host, "POST", f"/containers/{made}/start")
    yield made
    engine_api.request(lab.host, "DELETE", f"/containers/{made}", params={"force": 1, "v": 1})


@pytest.mark.parametrize("by", ["name", "id"])
async def test_one_that_settings_name_sleeps_and_wakes_without_a_label_and_others_are_left_alone(
    lab: DockerHarness, opens: Opens, name: str, unlabelled: str, by: str
) -> None:
    idle = {"idle_timeout": IDLE, "stop_timeout": 5}
    wanted = {"container": name if by == "name" else unlabelled[:16], "name": "declared", "idle": idle}
    async with opens(wanted) as house:
        await house.becomes("declared", lambda status: status.flow_state == "ready", "it is adopted as it runs")
        assert len(house.manager.list_containers(LOCAL, requests.ListContainers())) == 1
        await house.becomes("declared", lambda status: status.flow_state == "napping", "it falls asleep")
        assert not running(lab, unlabelled)
        await asyncio.to_thread(engine_api.request, lab.host, "POST", f"/containers/{unlabelled}/start")
        await house.becomes("declared", lambda status: status.flow_state == "ready", "its events are heard")
    async with opens() as house:
        assert house.manager.list_containers(LOCAL, requests.ListContainers()) == []
        assert running(lab, unlabelled)
        await house.tells("container_released")


async def test_one_that_is_made_later_is_adopted_when_it_appears(lab: DockerHarness, opens: Opens, name: str) -> None:
    async with opens({"container": name, "name": "declared"}) as house:
        assert house.manager.list_containers(LOCAL, requests.ListContainers()) == []
        body = {"Image": BUSYBOX_IMAGE, "Cmd": SLEEP}
        made = engine_api.request(lab.host, "POST", "/containers/create", params={"name": name}, body=body)["Id"]
        try:
            await house.becomes("declared", lambda status: status.state == "created", "it is adopted")
            await house.registry.wake_container(LOCAL, requests.WakeContainer(container_id="declared"))
            assert running(lab, made)
        finally:
            engine_api.request(lab.host, "DELETE", f"/containers/{made}", params={"force": 1, "v": 1})


@pytest.mark.parametrize("container", [LONG], indirect=True)
async def test_one_that_a_person_removes_is_told_of_as_lost_and_as_nothing_else(
    lab: DockerHarness, opens: Opens, name: str, container: str
) -> None:
    async with opens() as house:
        await house.becomes(name, lambda status: status.flow_state == "ready", "it is adopted as it runs")
        await asyncio.to_thread(
            engine_api.request, lab.host, "DELETE", f"/containers/{container}", params={"force": 1, "v": 1}
        )
        await house.tells("container_lost")
        assert await house.activity() == ["container_adopted", "container_lost"]
