"""The engine is killed while a flow's log is followed. An engine of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.runtimes.inside import LogLine
from tests.contract.harness import PATIENCE, run, until
from tests.contract.harness_docker import DockerHarness
from tests.engine import engine_script

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(180)]


async def test_following_goes_on_behind_the_last_line_when_a_killed_engine_is_back(
    private_docker_engine: Callable[[], engine_script.PrivateEngine], tmp_path: Path, provider: Any
) -> None:
    engine = await asyncio.to_thread(private_docker_engine)
    own = DockerHarness(engine.host, tmp_path)
    docker: DockerProvider = await provider(own, operation_timeout=5)
    spec = own.spec("counts")
    await run(docker, spec)
    lines: list[LogLine] = []

    async def follow(wanted: int) -> None:
        after = lines[-1].position if lines else ()
        async with asyncio.timeout(PATIENCE), aclosing(docker.follow_logs(spec.id, after=after)) as batches:
            async for batch in batches:
                lines.extend(batch)
                if wanted and len(lines) > wanted:
                    return

    await follow(5)
    pid = engine.pid()
    assert pid is not None
    broken = asyncio.create_task(follow(0))
    os.kill(pid, signal.SIGKILL)
    # Its end, or an error: never a hang.
    await asyncio.wait([broken], timeout=PATIENCE)
    assert broken.done()
    assert broken.exception() is None or isinstance(broken.exception(), errors.RuntimeUnavailable)
    await asyncio.to_thread(engine.launch)

    async def answers() -> bool:
        try:
            await docker.ping()
        except errors.RuntimeUnavailable:
            return False
        return True

    await until(answers, "the engine answers again", patience=60)
    await docker.start(spec.id)
    seen = len(lines)
    await follow(seen + 5)
    whole = await docker.logs(spec.id, tail=10_000)
    assert lines == whole[: len(lines)]
