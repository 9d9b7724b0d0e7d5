"""Containers that others made, on a real engine: seen by their label, followed, and nothing else touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.util.ids import derived_flow_id, new_flow_id
from tests.contract.harness import Events, until
from tests.contract.harness_docker import FOR_EVER, DockerHarness
from tests.engine import BUSYBOX_IMAGE, engine_api

pytestmark = pytest.mark.docker

SLEEP = ["sh", "-c", f"trap 'exit 143' TERM; {FOR_EVER}"]


class Others:
    """Makes containers as somebody else would, with the engine's own API, and removes them at the end."""

    def __init__(self, host: str, instance: str | None) -> None:
        self.host = host
        # On an engine that others use, too, the label keeps their managers away from this test's containers.
        self.labels = {"flow-manager.enable": "true", **({"flow-manager.instance": instance} if instance else {})}
        self._made: set[str] = set()

    def make(
        self, name: str, labels: dict[str, str] | None = None, *, start: bool = True, plain: bool = False, **body: Any
    ) -> str:
        """The container's own id. `plain`: without the label."""
        given = {**({} if plain else self.labels), **(labels or {})}
        config = {"Image": BUSYBOX_IMAGE, "Cmd": SLEEP, "Labels": given, **body}
        made = str(self._call("POST", "/containers/create", params={"name": name}, body=config)["Id"])
        self._made.add(made)
        if start:
            self._call("POST", f"/containers/{made}/start")
        return made

    def compose(self, project: str, service: str, number: int = 1, **more: Any) -> str:
        """As docker compose makes a service's container (and makes it anew under the same name)."""
        labels = {
            "com.docker.compose.project": project,
            "com.docker.compose.service": service,
            "com.docker.compose.container-number": str(number),
            "com.docker.compose.oneoff": "False",
        }
        return self.make(f"{project}_{service}_{number}", {**labels, **more.pop("labels", {})}, **more)

    def remove(self, runtime_id: str) -> None:
        self._call("DELETE", f"/containers/{runtime_id}", params={"force": 1, "v": 1})
        self._made.discard(runtime_id)

    def rename(self, runtime_id: str, name: str) -> None:
        self._call("POST", f"/containers/{runtime_id}/rename", params={"name": name})

    def stop(self, runtime_id: str) -> None:
        self._call("POST", f"/containers/{runtime_id}/stop", params={"t": 10})

    def state(self, runtime_id: str) -> dict[str, Any]:
        seen: dict[str, Any] = self._call("GET", f"/containers/{runtime_id}/json")["State"]
        return seen

    def clean(self) -> None:
        for runtime_id in list(self._made):
            try:
                self.remove(runtime_id)
            except engine_api.EngineError as error:
                if error.status != 404:
                    raise

    def _call(self, method: str, path: str, **more: Any) -> Any:
        return engine_api.request(self.host, method, path, **more)


@pytest.fixture
def others(lab: DockerHarness) -> Iterator[Others]:
    made = Others(lab.host, lab.instance)
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def project() -> str:
    return f"p{new_flow_id()}"


@pytest.fixture
async def adopting(lab: DockerHarness, provider: Callable[..., Any]) -> AsyncIterator[DockerProvider]:
    yield await provider(lab, adopt=True)


async def state(runtime: Runtime, flow_id: str) -> str:
    return (await runtime.inspect(flow_id)).state


async def test_one_with_the_label_is_seen_with_all_that_is_known_of_it(
    lab: DockerHarness, adopting: DockerProvider, others: Others, project: str
) -> None:
    runtime_id = others.compose(
        project,
        "web",
        labels={"flow-manager.port": "80"},
        Env=["MODE=fast", "EMPTY="],
        ExposedPorts={"80/tcp": {}, "81/tcp": {}},
        HostConfig={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
    )
    (seen,) = await adopting.list()
    assert seen.id == derived_flow_id(lab.name, project, "web", "1")
    assert (seen.adopted, seen.runtime_id, seen.name) == (True, runtime_id, f"{project}_web_1")
    assert (seen.state, seen.image, seen.labels["flow-manager.port"]) == ("running", BUSYBOX_IMAGE, "80")
    assert (seen.environment["MODE"], seen.environment["EMPTY"]) == ("fast", "")
    assert seen.published == {"80/tcp": 0}
    assert seen.ports.keys() == {"80/tcp"}
    assert seen.addresses
    assert seen == await adopting.inspect(seen.id)


async def test_every_verb_works_on_it(adopting: DockerProvider, others: Others, project: str) -> None:
    runtime_id = others.compose(project, "web")
    ((flow_id),) = [flow.id for flow in await adopting.list()]
    assert (await adopting.pause(flow_id)).state == "paused"
    assert (await adopting.unpause(flow_id)).state == "running"
    assert (await adopting.stop(flow_id, timeout=10)).exit_code == 143
    assert (await adopting.start(flow_id)).state == "running"
    assert (await adopting.kill(flow_id)).exit_code == 137
    assert [line.text for line in await adopting.logs(flow_id)] == []
    assert (await adopting.start(flow_id)).runtime_id == runtime_id
    assert (await adopting.stats(flow_id)).pids is not None
    with pytest.raises(errors.ContainerRunning):
        await adopting.remove(flow_id)
    await adopting.remove(flow_id, force=True)
    with pytest.raises(errors.ContainerNotFound):
        await adopting.inspect(flow_id)


async def test_nothing_without_the_label_is_seen_or_touched(
    lab: DockerHarness, adopting: DockerProvider, others: Others, provider: Callable[..., Any], project: str
) -> None:
    name = f"{project}-x"
    left = {
        "plain": others.make(f"{name}-plain", plain=True),
        "off": others.make(f"{name}-off", {"flow-manager.enable": "false"}),
        "odd": others.make(f"{name}-odd", {"flow-manager.enable": "True "}),
        "other": others.make(f"{name}-other", {"flow-manager.instance": "somebody-else"}),
        "job": others.compose(project, "job", labels={"com.docker.compose.oneoff": "True"}),
    }
    before = {key: others.state(runtime_id) for key, runtime_id in left.items()}
    async with Events(adopting) as events:
        assert await adopting.list() == []
        assert await adopting.glance() == []
        for runtime_id in left.values():
            derived = derived_flow_id(lab.name, f"{name}-plain")
            for call in (adopting.inspect, adopting.start, adopting.stop, adopting.kill, adopting.pause):
                for wanted in (derived, runtime_id):
                    with pytest.raises(errors.ContainerNotFound):
                        await call(wanted)
            await adopting.remove(runtime_id, force=True)
        others.stop(left["plain"])
        seen = others.make(f"{name}-seen")
        await events.wait_for("started", derived_flow_id(lab.name, f"{name}-seen"))
        assert {event.id for event in events.seen if event.id} == {derived_flow_id(lab.name, f"{name}-seen")}
    assert others.state(left["plain"])["Status"] == "exited"
    del left["plain"]
    assert {key: others.state(runtime_id) for key, runtime_id in left.items()} == {
        key: state for key, state in before.items() if key in left
    }
    # Where the setting says no, the label is nothing either.
    refusing = await provider(lab, adopt=False)
    assert await refusing.list() == []
    assert others.state(seen)["Status"] == "running"


async def test_one_that_is_made_anew_keeps_its_id_and_is_followed(
    adopting: DockerProvider, others: Others, project: str
) -> None:
    first = others.compose(project, "web")
    (before,) = await adopting.list()
    async with Events(adopting) as events:
        # As compose does it: the old one goes aside and stops, the new one starts, the old one is removed.
        others.stop(first)
        others.rename(first, f"aside_{project}_web_1")
        second = others.compose(project, "web")
        await events.wait_for("started", before.id)
        seen = await adopting.inspect(before.id)
        assert (seen.id, seen.runtime_id, seen.state) == (before.id, second, "running")
        assert [flow.runtime_id for flow in await adopting.list()] == [second]
        assert (await adopting.pause(before.id)).state == "paused"
        assert others.state(second)["Paused"]
        others.remove(first)
        assert [flow.runtime_id for flow in await adopting.glance()] == [second]
        await events.wait_for("paused", before.id)
        assert events.of(before.id) == ["died", "created", "started", "paused"], "the old one's end is nobody's end"
    # All gone, then made anew: the remembered container is not insisted upon.
    others.remove(second)
    third = others.compose(project, "web")
    assert (await adopting.stop(before.id)).runtime_id == third
    assert others.state(third)["Status"] == "exited"


async def test_the_numbers_of_a_service_are_flows_of_their_own(
    lab: DockerHarness, adopting: DockerProvider, others: Others, project: str
) -> None:
    others.compose(project, "web", 1)
    others.compose(project, "web", 2)
    assert {flow.id for flow in await adopting.list()} == {
        derived_flow_id(lab.name, project, "web", "1"),
        derived_flow_id(lab.name, project, "web", "2"),
    }


async def test_one_without_compose_is_known_by_its_name(
    lab: DockerHarness, adopting: DockerProvider, others: Others, project: str
) -> None:
    runtime_id = others.make(project)
    first, second = derived_flow_id(lab.name, project), derived_flow_id(lab.name, f"{project}-new")
    async with Events(adopting) as events:
        assert [flow.id for flow in await adopting.list()] == [first]
        others.rename(runtime_id, f"{project}-new")
        await events.wait_for("removed", first)
        await events.wait_for("created", second)
    assert (await adopting.inspect(second)).runtime_id == runtime_id
    with pytest.raises(errors.ContainerNotFound):
        await adopting.inspect(first)


async def test_what_people_do_to_it_is_told_with_its_cause(
    adopting: DockerProvider, others: Others, project: str
) -> None:
    async with Events(adopting) as events:
        runtime_id = others.compose(project, "web")
        (flow,) = await adopting.list()
        await events.wait_for("started", flow.id)
        others.stop(runtime_id)
        assert (await events.wait_for("died", flow.id)).cause == "stop"
        assert events.of(flow.id) == ["created", "started", "died"]


async def test_a_stop_that_takes_its_time_is_told_as_one_all_the_same(
    adopting: DockerProvider, others: Others, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker stop -t 300`: the program ends in its own time and with its own code; only the `stop` event tells."""
    from flow_manager.runtimes.docker import causes

    monkeypatch.setattr(causes, "SIGNAL_MEMORY", -1.0)
    async with Events(adopting) as events:
        runtime_id = others.compose(project, "web", Cmd=["sh", "-c", f"trap 'exit 3' TERM; {FOR_EVER}"])
        (flow,) = await adopting.list()
        await asyncio.sleep(0.2)  # the shell's own time to set its trap
        others.stop(runtime_id)

        async def corrected() -> bool:
            return [event.cause for event in events.seen if event.type == "died" and event.id == flow.id] == [
                "exit",
                "stop",
            ]

        await until(corrected, "the stop event corrects the cause")


async def test_the_label_alone_is_enough(
    private_docker_engine: Callable[[], Any], provider: Callable[..., Any]
) -> None:
    """Without an instance's name on it, on an engine where nobody else's manager looks for such containers."""
    engine = private_docker_engine()
    others = Others(engine.host, None)
    try:
        others.make("alone")

        class Lab:
            name, host, instance = "docker", engine.host, "i"

        runtime = await provider(Lab, adopt=True)
        assert [(flow.name, flow.adopted) for flow in await runtime.list()] == [("alone", True)]
        assert (await runtime.stop(derived_flow_id("docker", "alone"))).state == "exited"
    finally:
        others.clean()


async def test_an_engine_that_is_told_to_end_is_no_person_who_stops_everything(
    private_docker_engine: Callable[[], Any], provider: Callable[..., Any]
) -> None:
    engine = private_docker_engine()
    others = Others(engine.host, None)
    others.make("alone")

    class Lab:
        name, host, instance = "docker", engine.host, "i"

    runtime = await provider(Lab, adopt=True)
    flow_id = derived_flow_id("docker", "alone")
    async with Events(runtime) as events:
        assert [flow.id for flow in await runtime.list()] == [flow_id]
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await events.wait_for("unavailable")
        await stopping
        told = [event.cause for event in events.seen if event.type == "died"]
        assert told in ([], [None]), "else what runs would not be wanted any more after a restart of the engine"
