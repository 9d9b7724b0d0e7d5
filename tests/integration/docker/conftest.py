"""Flows on a real engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.settings.models import FlowSettings, LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from tests.contract.harness_docker import DockerHarness

MakeProvider = Callable[..., DockerProvider]


@pytest.fixture
async def lab(docker_engine: str, tmp_path: Path) -> AsyncIterator[DockerHarness]:
    """The shared engine, with an instance of the test's own."""
    harness = DockerHarness(docker_engine, tmp_path)
    try:
        yield harness
    finally:
        harness.clean()


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Callable[..., AsyncIterator[DockerProvider]]]:
    """Opens providers with settings of the test's choice, and closes them after it."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            lab: DockerHarness,
            *,
            operation_timeout: float = 30,
            flows: tuple[FlowSettings, ...] = (),
            **settings: object,
        ) -> DockerProvider:
            made = DockerProvider(
                lab.name,
                RuntimeSettings(kind="docker", url=lab.host, **settings),  # type: ignore[arg-type]
                instance=lab.instance,
                limits=LimitSettings(operation_timeout=operation_timeout, pull_stall=3),
                sockets_dir=tmp_path / "sockets",
                state_dir=tmp_path / "state",
                flows=flows,
            )
            await made.open()
            stack.push_async_callback(made.close)
            return made

        yield make  # type: ignore[misc]


@pytest.fixture
async def docker(lab: DockerHarness, provider: Callable[..., object]) -> DockerProvider:
    return await provider(lab)  # type: ignore[no-any-return, misc]
