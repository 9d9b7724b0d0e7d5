"""A ContainerManager over the memory runtime, with a real store, a real channel and faults at hand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flow_manager.activity.stream import ActivityStream
from flow_manager.containers.core import Core
from flow_manager.containers.manager import ContainerManager
from flow_manager.contract.models import ContainerStatus
from flow_manager.runtimes.memory.runtime import CAPABILITIES
from flow_manager.settings.models import Settings
from flow_manager.store.sql import SqlStore
from flow_manager.testing import Faults, MemoryEngine, MemoryRuntime, eventually
from flow_manager.testing.core import open_core


@dataclass
class House:
    """Everything that a test of the manager may want to look at."""

    root: Path
    manager: ContainerManager
    core: Core
    runtime: MemoryRuntime
    faults: Faults
    store: SqlStore
    stream: ActivityStream
    statuses: list[ContainerStatus]

    async def activity(self) -> list[str]:
        return [item.entry.type for item in await self.stream.read(limit=1000)]

    async def told(self, *types: str) -> None:
        """Wait until entries of all these types are stored."""

        async def all_there() -> bool:
            return set(types) <= set(await self.activity())

        await eventually(all_there)

    async def nothing_is_left(self) -> None:
        """No container, no record, no folder, no code, no name taken."""
        assert await self.runtime.list() == []
        assert await self.store.flows.all() == []
        assert list((self.root / "s").iterdir()) == []
        assert list((self.root / "state" / "code").glob("*")) == []
        assert len(self.core.table) == 0


class Builder:
    """Opens a manager on one state folder and one engine, again and again, as restarts would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = MemoryEngine()
        self.capabilities = CAPABILITIES

    @asynccontextmanager
    async def open(self, **changes: Any) -> AsyncIterator[House]:
        settings = Settings.model_validate(
            {
                "state_dir": self.root / "state",
                "sockets_dir": self.root / "s",
                "policy": {"code_roots": [str(self.root / "src")]},
                **changes,
            }
        )
        faults = Faults()
        runtime = MemoryRuntime(
            instance="i",
            faults=faults,
            engine=self.engine,
            call_timeout=1.0,
            flows=settings.flows,
            capabilities=self.capabilities,
        )
        await runtime.open()
        async with open_core(settings, runtime) as opened:
            manager = ContainerManager(opened.core)
            statuses: list[ContainerStatus] = []
            manager.on_status(lambda _tenant, status: statuses.append(status))
            await manager.open()
            try:
                yield House(self.root, manager, opened.core, runtime, faults, opened.store, opened.stream, statuses)
            finally:
                await manager.close(1.0)
                await runtime.close()


@pytest.fixture
async def builder() -> AsyncIterator[Builder]:
    root = Path(tempfile.mkdtemp(prefix="fm-"))
    (root / "src").mkdir()
    (root / "src" / "main.py").write_text("print(1)")
    made = Builder(root)
    yield made
    await made.engine.close()
    shutil.rmtree(root)


@pytest.fixture
async def house(builder: Builder) -> AsyncIterator[House]:
    async with builder.open() as opened:
        yield opened


@pytest.fixture
def code_path(builder: Builder) -> Iterator[str]:
    yield str(builder.root / "src")
