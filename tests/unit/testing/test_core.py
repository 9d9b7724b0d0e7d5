"""The core that tests, of users too, build a manager on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_manager.containers.manager import ContainerManager
from flow_manager.contract.principal import LOCAL
from flow_manager.contract.requests import CreateContainer
from flow_manager.settings.models import Settings
from flow_manager.testing import MemoryRuntime
from flow_manager.testing.core import open_core


@pytest.fixture
def settings() -> Iterator[Settings]:
    root = Path(tempfile.mkdtemp(prefix="fm-"))  # pytest's own folders are too long for sockets
    yield Settings(state_dir=root / "state", sockets_dir=root / "s")
    shutil.rmtree(root)


async def test_the_first_runtime_is_the_default_and_flows_outlive_the_core(settings: Settings) -> None:
    first, second = MemoryRuntime("first", instance="i"), MemoryRuntime("second", instance="i")
    for runtime in (first, second):
        await runtime.open()
    async with open_core(settings, first, second) as opened:
        manager = ContainerManager(opened.core)
        await manager.open()
        made = await manager.create_container(LOCAL, CreateContainer(image="memory", name="reports"))
        await manager.close(1.0)
    assert made.runtime == "first"
    async with open_core(settings, first, second) as opened:
        assert [kept.id for kept in await opened.store.flows.all()] == [made.id]
    for runtime in (first, second):
        await runtime.close()
        await runtime.engine.close()
