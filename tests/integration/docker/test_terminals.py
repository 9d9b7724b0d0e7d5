"""Terminals on a real engine: what is ended from inside, and what the engine's connections cost."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from flow_manager.runtimes.docker import marked
from flow_manager.runtimes.docker.provider import DockerProvider
from tests.contract import harness_docker
from tests.contract.harness import run

pytestmark = pytest.mark.docker


def sleepers(seconds: int) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes() == b"sleep\0%d\0" % seconds
        except OSError:
            continue
    return found


async def test_where_processes_are_not_seen_a_shell_inside_ends_them(
    docker_engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for an engine on another machine, or a manager in a container of its own.
    monkeypatch.setattr(marked, "on_this_machine", lambda pid, container: False)
    seconds = secrets.randbelow(10**8) + 10**6
    async with harness_docker.harness(tmp_path, docker_engine=docker_engine) as harness:
        runtime = await harness.open()
        assert isinstance(runtime, DockerProvider)
        flow = await run(runtime, harness.spec("sleeps"))
        terminal = await runtime.attach(flow, None)
        await terminal.write(b"trap '' HUP; sleep %d & (setsid sleep %d &); echo re''ady\r" % (seconds, seconds))
        seen = b""
        async with asyncio.timeout(20):
            while b"ready\r\n" not in seen:
                seen += await terminal.read()
            while sleepers(seconds) < 2:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.02)
        await terminal.close()
        assert sleepers(seconds) == 0
        assert runtime.client._open_streams == 0
        await runtime.close()
