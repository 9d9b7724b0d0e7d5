"""What a manager that was killed left running in containers, when the next one comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flow_manager.runtimes.docker.exec_end import CommandEnding
from flow_manager.runtimes.docker.leftovers import Leftovers, Marks
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.runtimes.inside import Command
from tests.contract.harness import run
from tests.contract.harness_docker import DockerHarness

pytestmark = pytest.mark.docker
PATIENCE = 30
LOOK = "for c in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$c; echo; done 2>/dev/null | grep '^sleep 9[0-9]*'"
IN_THE_TERMINAL = b"sleep 921 & (setsid sleep 922 &) ; trap '' HUP TERM; sleep 923\r"


async def sleeping(docker: DockerProvider, id: str) -> set[str]:
    seen = await docker.exec(id, Command(("sh", "-c", LOOK)), timeout=30, limit=65536)
    return {line.split()[1] for line in seen.stdout.decode().splitlines()}


async def only(docker: DockerProvider, id: str, expected: set[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while await sleeping(docker, id) != expected:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.1)


@pytest.fixture
async def next_run(lab: DockerHarness) -> AsyncIterator[DockerProvider]:
    """The same instance, started again, while its earlier run (`docker`) is as good as dead: nothing is ended by it."""
    runtime = await lab.open()
    assert isinstance(runtime, DockerProvider)
    yield runtime
    await runtime.close()


async def leave(docker: DockerProvider, id: str) -> list[asyncio.Task[Any]]:
    """A command that is over and left something behind, one under way, and a terminal in use."""
    await docker.exec(id, Command(("sh", "-c", "sleep 900 >/dev/null 2>&1 &")), timeout=30, limit=1024)
    script = "trap '' TERM HUP; sleep 911 & (setsid sleep 912 &); sleep 913"
    under_way = asyncio.create_task(docker.exec(id, Command(("sh", "-c", script)), timeout=300, limit=1024))
    terminal = await docker.attach(id, None)
    await terminal.write(IN_THE_TERMINAL)

    async def read() -> None:
        while await terminal.read():
            pass

    reading = asyncio.create_task(read())
    await only(docker, id, {"900", "911", "912", "913", "921", "922", "923"})
    return [under_way, reading]


@pytest.mark.parametrize("far", [False, True], ids=["on this machine", "on another machine"])
async def test_the_next_run_ends_what_was_under_way_and_nothing_else(
    lab: DockerHarness, docker: DockerProvider, next_run: DockerProvider, far: bool
) -> None:
    id = await run(docker, lab.spec("sleeps"))
    left = await leave(docker, id)
    if far:
        ending = CommandEnding(next_run.client, lambda _pid, _container: False)
        next_run._leftovers = Leftovers(next_run.client, ending, Marks(lab.instance), lambda _pid, _container: False)
    await next_run.list()
    await only(next_run, id, {"900"})
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*left)


async def test_a_runs_own_commands_and_another_instances_are_let_be(
    lab: DockerHarness, docker: DockerProvider, next_run: DockerProvider
) -> None:
    id = await run(docker, lab.spec("sleeps"))
    own = asyncio.create_task(next_run.exec(id, Command(("sleep", "931")), timeout=300, limit=1024))
    await only(docker, id, {"931"})
    docker._leftovers = Leftovers(docker.client, CommandEnding(docker.client), Marks("somebody else"))
    for runtime in (next_run, docker):
        await runtime.list()
        assert runtime._leftovers._task is not None
        async with asyncio.timeout(PATIENCE):
            await runtime._leftovers._task
    assert await sleeping(docker, id) == {"931"}
    own.cancel()
    await asyncio.wait([own])


def test_a_mark_tells_its_instance_and_its_run() -> None:
    earlier, now, other = Marks("one"), Marks("one"), Marks("two")
    assert now.is_left(earlier.new())
    assert not now.is_left(now.new())
    assert not now.is_left(other.new())
    assert not now.is_left("")
