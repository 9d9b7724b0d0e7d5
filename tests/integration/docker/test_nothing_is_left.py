"""A create that fails or is given up, at whichever step, leaves nothing; and a start is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiodocker.exceptions import DockerError

from flow_manager import errors
from flow_manager.runtimes.docker.client import Answer, EngineClient
from flow_manager.runtimes.docker.provider import DockerProvider
from tests.contract.harness import PATIENCE, Events, run, until
from tests.contract.harness_docker import DockerHarness
from tests.engine import engine_api

pytestmark = pytest.mark.docker

Call = Callable[..., Awaitable[Answer]]
# The engine calls of a create, in order; the last is made only with a further network.
STEPS = {
    "the network": ("POST", "networks/create"),
    "the container": ("POST", "containers/create"),
    "joining a further network": ("POST", "/connect"),
    "the look at what was made": ("GET", "/json"),
}
FAULTS: dict[str, Callable[[], Exception]] = {
    "no connection": lambda: DockerError(900, "Cannot connect"),
    "a server error": lambda: DockerError(500, "something broke"),
    "a time-out": TimeoutError,
    "garbage": lambda: ValueError("not JSON"),
}


def break_in(monkeypatch: pytest.MonkeyPatch, step: tuple[str, str], what: Callable[[Call], Call]) -> None:
    """Replace the engine call of one step by what `what` makes of it."""
    real = EngineClient.call

    async def call(self: EngineClient, method: str, path: str, **options: Any) -> Answer:
        if method == step[0] and step[1] in path and not path.startswith("containers/json"):
            return await what(real)(self, method, path, **options)
        return await real(self, method, path, **options)

    monkeypatch.setattr(EngineClient, "call", call)


@pytest.fixture
def extra_network(lab: DockerHarness) -> str:
    name = f"extra-{lab.instance}"
    body = {"Name": name, "Labels": {"flow-manager.instance": lab.instance}}
    engine_api.request(lab.host, "POST", "/networks/create", body=body)
    return name


@pytest.mark.parametrize("done", [False, True], ids=["before it was done", "after it was done"])
@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("step", list(STEPS))
async def test_a_create_that_fails_leaves_nothing(
    lab: DockerHarness,
    docker: DockerProvider,
    extra_network: str,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    fault: str,
    done: bool,
) -> None:
    def failing(real: Call) -> Call:
        async def call(*arguments: Any, **options: Any) -> Answer:
            if done:
                await real(*arguments, **options)
            raise FAULTS[fault]()

        return call

    spec = lab.spec("sleeps", networks=(extra_network,))
    with monkeypatch.context() as patch:
        break_in(patch, STEPS[step], failing)
        with pytest.raises(errors.RuntimeUnavailable):
            await docker.create(spec)
    assert await lab.leftovers() == []
    assert await docker.list() == []
    assert (await docker.create(spec)).state == "created"


@pytest.mark.parametrize("step", list(STEPS))
async def test_a_create_that_is_given_up_leaves_nothing(
    lab: DockerHarness, docker: DockerProvider, extra_network: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    there = asyncio.Event()

    def telling(real: Call) -> Call:
        async def call(*arguments: Any, **options: Any) -> Answer:
            there.set()
            return await real(*arguments, **options)

        return call

    spec = lab.spec("sleeps", networks=(extra_network,))
    with monkeypatch.context() as patch:
        break_in(patch, STEPS[step], telling)
        creating = asyncio.create_task(docker.create(spec))
        await asyncio.wait_for(there.wait(), PATIENCE)
        creating.cancel()
        await asyncio.wait([creating], timeout=PATIENCE)
    assert creating.cancelled()
    assert await lab.leftovers() == []


async def test_a_name_conflict_leaves_the_one_that_has_the_name(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps")
    await docker.create(spec)
    with pytest.raises(errors.NameConflict):
        await docker.create(spec)
    assert (await docker.inspect(spec.id)).state == "created"


async def test_others_containers_are_neither_seen_nor_touched(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps")
    body = {"Image": spec.image, "Labels": {"flow-manager.id": spec.id, "flow-manager.instance": "somebody-else"}}
    made = engine_api.request(lab.host, "POST", "/containers/create", params={"name": f"x-{spec.id}"}, body=body)
    try:
        assert await docker.list() == []
        for verb in (docker.inspect, docker.start, docker.stop, docker.kill, docker.pause, docker.stats):
            with pytest.raises(errors.ContainerNotFound):
                await verb(spec.id)
        await docker.remove(spec.id, force=True)
        assert engine_api.request(lab.host, "GET", f"/containers/{made['Id']}/json")["State"]["Status"] == "created"
    finally:
        engine_api.request(lab.host, "DELETE", f"/containers/{made['Id']}")


async def test_a_start_while_somebody_else_stops_it_is_not_lost(lab: DockerHarness, docker: DockerProvider) -> None:
    """The engine says 304, as if it ran and went on running, and a moment later it has ended."""
    spec = lab.spec("ignores_term")
    async with Events(docker) as events:
        await run(docker, spec)
        stopping = asyncio.create_task(
            asyncio.to_thread(
                engine_api.request, lab.host, "POST", f"/containers/{spec.container_name}/stop", params={"t": 2}
            )
        )

        async def signalled() -> bool:
            return bool(docker._ending._signalled)

        await until(signalled, "the event of the signal")
        started = await docker.start(spec.id)
        await stopping
        assert started.state == "running"
        assert (await docker.inspect(spec.id)).state == "running"
        assert events.of(spec.id) == ["created", "started", "died", "started"]


async def test_a_start_waits_for_a_stop_of_its_own_to_end(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("ignores_term")
    await run(docker, spec)
    stopping = asyncio.create_task(docker.stop(spec.id, timeout=1))
    await asyncio.sleep(0.3)
    started = await docker.start(spec.id)
    await stopping
    assert started.state == "running"
    assert (await docker.inspect(spec.id)).state == "running"


async def test_a_stop_that_was_given_up_does_not_kill_later(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("ignores_term")
    await run(docker, spec)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await docker.stop(spec.id, timeout=1)
    await asyncio.sleep(1.5)
    assert (await docker.inspect(spec.id)).state == "running"


async def test_a_removal_that_is_under_way_is_waited_for(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps")
    await run(docker, spec)
    await asyncio.gather(*(docker.remove(spec.id, force=True) for _ in range(5)))
    assert await lab.leftovers() == []


async def test_pausing_and_going_on_over_and_over_works_under_load(lab: DockerHarness, docker: DockerProvider) -> None:
    specs = [lab.spec("sleeps") for _ in range(4)]
    await asyncio.gather(*(run(docker, spec) for spec in specs))

    async def flip(id: str) -> None:
        for _ in range(10):
            assert (await docker.pause(id)).state == "paused"
            assert (await docker.unpause(id)).state == "running"

    await asyncio.gather(*(flip(spec.id) for spec in specs))


async def test_more_followers_than_a_pool_has_do_not_block_the_rest(lab: DockerHarness, docker: DockerProvider) -> None:
    """aiohttp's pool has 100 connections: with one client for all, the 101st call would wait for ever."""
    watchers = [docker.watch() for _ in range(120)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(anext(watcher) for watcher in watchers))  # type: ignore[arg-type]
        await docker.ping()
        spec = lab.spec("sleeps")
        await docker.create(spec)
    for watcher in watchers:
        await watcher.aclose()  # type: ignore[attr-defined]
    assert docker.client._open_streams == 0


async def test_an_image_that_cannot_be_had_says_why_in_time(lab: DockerHarness, docker: DockerProvider) -> None:
    told: list[str] = []
    with pytest.raises(errors.ImageNotFound) as caught:
        async with asyncio.timeout(PATIENCE):
            await docker.create(lab.spec("sleeps", image="localhost:1/no/such:image"), told.append)
    assert caught.value.details["image"] == "localhost:1/no/such:image"
    assert caught.value.details["reason"]
    assert told[0] == "pulling localhost:1/no/such:image"
    assert await lab.leftovers() == []
