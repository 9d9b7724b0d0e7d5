"""Commands in containers, at the edges that only a real engine has."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_manager import errors
from flow_manager.runtimes.docker.exec import Executor
from flow_manager.runtimes.docker.exec_end import CommandEnding
from flow_manager.runtimes.docker.leftovers import Marks
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.runtimes.inside import MARK, Command, ExecOutcome
from tests.contract.harness import run
from tests.contract.harness_docker import DockerHarness

pytestmark = pytest.mark.docker
MIB = 1024 * 1024


async def execute(docker: DockerProvider, id: str, *argv: str, timeout: float = 60, **more: object) -> ExecOutcome:
    return await docker.exec(id, Command(argv, **more), timeout=timeout, limit=MIB)  # type: ignore[arg-type]


async def sleeping(docker: DockerProvider, id: str) -> str:
    look = "for c in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$c; echo; done 2>/dev/null | grep '^sleep 9[0-9]*'"
    return (await execute(docker, id, "sh", "-c", look)).stdout.decode()


def as_if_far_away(docker: DockerProvider) -> None:
    """The engine's processes are not seen from here, as with a remote one."""
    ending = CommandEnding(docker.client, lambda _pid, _container: False)
    docker._executor = Executor(docker._containers, ending, docker._ending.ended, timeout=30, new_mark=Marks("far").new)


async def test_from_afar_a_late_command_is_ended_from_inside(lab: DockerHarness, docker: DockerProvider) -> None:
    as_if_far_away(docker)
    id = await run(docker, lab.spec("sleeps"))
    script = "sleep 901 & setsid sleep 902 & (trap '' TERM; sleep 903) & wait"
    with pytest.raises(errors.OperationTimeout) as late:
        await execute(docker, id, "sh", "-c", script, timeout=0.7)
    assert late.value.details.get("left_running") is None
    assert await sleeping(docker, id) == ""
    assert (await docker.inspect(id)).state == "running"


async def test_where_nothing_can_end_it_the_reply_says_that_it_was_left(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    as_if_far_away(docker)
    id = await run(docker, lab.spec("sleeps"))
    assert (await execute(docker, id, "rm", "/bin/sh")).exit_code == 0
    began = time.monotonic()
    with pytest.raises(errors.OperationTimeout) as late:
        await execute(docker, id, "sleep", "911", timeout=0.5)
    assert late.value.details["left_running"] is True
    assert time.monotonic() - began < 15


async def test_from_afar_a_command_that_kills_itself_is_no_end_of_its_flow(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    as_if_far_away(docker)
    id = await run(docker, lab.spec("sleeps"))
    assert (await execute(docker, id, "sh", "-c", "kill -9 $$")).exit_code == 137
    running = asyncio.create_task(execute(docker, id, "sleep", "921"))
    await asyncio.sleep(0.5)
    await docker.kill(id)
    with pytest.raises(errors.ContainerStopped):
        await asyncio.wait_for(running, 20)


async def test_a_process_of_no_such_container_is_never_touched() -> None:
    """Its number, its session and even its mark are right: its cgroup is not."""
    script = "import sys, time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(  # noqa: ASYNC220 - one short-lived process
        [sys.executable, "-c", script],
        env={**os.environ, MARK: "abc"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        ending = CommandEnding(None)  # type: ignore[arg-type]
        assert await ending.kill_from_here("f" * 64, process.pid, "abc") is False
        assert await ending.kill_from_here("", process.pid, "abc") is False
        assert process.poll() is None
        process.kill()


async def test_a_hundred_megabytes_without_a_newline_take_bounded_memory(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    id = await run(docker, lab.spec("sleeps"))
    tracemalloc.start()
    try:
        outcome = await execute(docker, id, "sh", "-c", "head -c 100000000 /dev/zero; echo done >&2")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(outcome.stdout), outcome.stderr, outcome.truncated) == (MIB, b"done\n", True)
    assert peak < 12 * MIB


async def test_a_flow_with_a_terminal_runs_commands_without_one(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps", tty=True)
    await docker.create(spec)
    await docker.start(spec.id)
    outcome = await execute(docker, spec.id, "sh", "-c", "test -t 1 && echo terminal; echo out; echo err >&2")
    assert outcome == ExecOutcome(0, b"out\n", b"err\n")


async def test_long_commands_do_not_starve_the_engines_other_calls(lab: DockerHarness, docker: DockerProvider) -> None:
    id = await run(docker, lab.spec("sleeps"))
    many = [asyncio.create_task(execute(docker, id, "sleep", "60")) for _ in range(40)]
    await asyncio.sleep(6)
    began = time.monotonic()
    assert (await docker.inspect(id)).state == "running"
    assert (await execute(docker, id, "true")).exit_code == 0
    assert time.monotonic() - began < 10
    await docker.kill(id)
    outcomes = await asyncio.wait_for(asyncio.gather(*many, return_exceptions=True), 40)
    assert {type(outcome) for outcome in outcomes} == {errors.ContainerStopped}


async def test_an_engine_that_goes_away_ends_the_wait(
    private_docker_engine: Callable[[], object], provider: Callable[..., object], tmp_path: Path
) -> None:
    engine = private_docker_engine()
    lab = DockerHarness(engine.host, tmp_path)  # type: ignore[attr-defined]
    docker: DockerProvider = await provider(lab)  # type: ignore[assignment, misc]
    id = await run(docker, lab.spec("sleeps"))
    running = asyncio.create_task(execute(docker, id, "sleep", "60"))
    await asyncio.sleep(0.7)
    await asyncio.to_thread(engine.stop)  # type: ignore[attr-defined]
    with pytest.raises((errors.RuntimeUnavailable, errors.ContainerStopped)):
        await asyncio.wait_for(running, 40)
