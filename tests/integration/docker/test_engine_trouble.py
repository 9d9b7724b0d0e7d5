"""The engine is down, frozen, killed and started again. Each test has an engine of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.docker.provider import DockerProvider
from tests.contract.harness import Events, run, until
from tests.contract.harness_docker import DockerHarness
from tests.engine import engine_script

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(180)]

# Calls with an operation's time limit of three seconds, its clean-up's five, and some for a busy machine.
BOUND = 20.0
Start = Callable[[], engine_script.PrivateEngine]


@pytest.fixture
async def engine(private_docker_engine: Start) -> engine_script.PrivateEngine:
    return await asyncio.to_thread(private_docker_engine)


@pytest.fixture
def own(engine: engine_script.PrivateEngine, tmp_path: Path) -> DockerHarness:
    """Not cleaned up one by one: the whole engine goes."""
    return DockerHarness(engine.host, tmp_path)


@asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)

    async def stands_still() -> bool:
        """All of its threads: one that was on a processor may answer a call more."""
        threads = [entry.read_text() for entry in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(thread.rpartition(")")[2].split()[0] == "T" for thread in threads)

    await until(stands_still, "all threads of the engine stand still")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def refuses(call: Any) -> float:
    """The call gives `RuntimeUnavailable`; how many seconds it took."""
    before = time.monotonic()
    with pytest.raises(errors.RuntimeUnavailable) as caught:
        await asyncio.wait_for(call, BOUND)
    assert caught.value.error_type == "docker_api_error"
    return time.monotonic() - before


async def test_no_engine_at_all_is_said_in_time(tmp_path: Path, provider: Any) -> None:
    nowhere = DockerHarness(f"unix://{tmp_path}/nobody.sock", tmp_path)
    docker: DockerProvider = await provider(nowhere, operation_timeout=3)
    spec = nowhere.spec("sleeps")
    for call in (docker.ping(2), docker.list(), docker.inspect(spec.id), docker.create(spec), docker.start(spec.id)):
        await refuses(call)
    watcher = docker.watch()
    assert (await asyncio.wait_for(anext(watcher), BOUND)).type == "unavailable"  # type: ignore[arg-type]
    await watcher.aclose()  # type: ignore[attr-defined]


async def test_a_killed_engine_comes_back_and_everything_is_seen_again(
    engine: engine_script.PrivateEngine, own: DockerHarness, provider: Any
) -> None:
    docker: DockerProvider = await provider(own, operation_timeout=5)
    spec, later = own.spec("sleeps"), own.spec("sleeps")
    await run(docker, spec)
    async with Events(docker) as events:
        pid = engine.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert (await events.wait_for("unavailable")).reason
        await refuses(docker.inspect(spec.id))
        await asyncio.to_thread(engine.launch)
        await events.wait_for("available")
        assert [event.type for event in events.seen if event.id is None] == [
            "resync", "unavailable", "available", "resync",
        ]  # fmt: skip
        # Without live-restore an engine that starts kills what its predecessor left: list and inspect tell, no event does.
        assert not (await docker.inspect(spec.id)).running
        assert (await docker.start(spec.id)).state == "running"
        await docker.create(later)
        await events.wait_for("created", later.id)


async def test_a_frozen_engine_is_given_up_in_time(
    engine: engine_script.PrivateEngine, own: DockerHarness, provider: Any
) -> None:
    docker: DockerProvider = await provider(own, operation_timeout=3)
    spec, other = own.spec("sleeps"), own.spec("sleeps")
    await run(docker, spec)
    pid = engine.pid()
    assert pid is not None
    async with frozen(pid):
        calls = (docker.ping(1), docker.inspect(spec.id), docker.list(), docker.stop(spec.id, timeout=1), docker.kill(spec.id), docker.create(other), docker.logs(spec.id), docker.stats(spec.id))  # fmt: skip
        waited = await asyncio.gather(*(refuses(call) for call in calls))
        assert waited[0] < 3

    async def undone() -> bool:
        """The engine makes the container when it thaws, and it is removed then."""
        return [flow.id for flow in await docker.list()] == [spec.id] and len(await own.leftovers()) == 1

    await until(undone, "the create that was given up is undone")
    await docker.create(other)


async def test_a_frozen_containerd_is_noticed_although_the_engine_answers(
    engine: engine_script.PrivateEngine, own: DockerHarness, provider: Any
) -> None:
    docker: DockerProvider = await provider(own, operation_timeout=3)
    spec = own.spec("sleeps")
    await run(docker, spec)
    pid = int((engine.folder / "exec" / "containerd" / "containerd.pid").read_text())
    async with frozen(pid):
        await refuses(docker.pause(spec.id))
        await refuses(docker.ping(2))
    await docker.ping()
