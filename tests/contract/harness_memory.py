"""The memory runtime over one engine that outlives the runtime objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flow_manager.runtimes.base import FlowSpec, Runtime
from flow_manager.runtimes.memory import MemoryEngine, MemoryRuntime
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Behaviour, flow_spec

FIXTURES: tuple[str, ...] = ()
COMMANDS: dict[str, tuple[str, ...]] = {
    "sleeps": ("sleep",),
    "ignores_term": ("ignore-term",),
    "ends_with_zero": ("polite",),
    "prints_environment": ("env",),
    "dies_soon": ("die-soon", "4"),
    "serves": ("serve",),
    "counts": ("count",),
    "missing_command": ("no-such-command",),
}


class MemoryHarness:
    kind = "memory"
    name = "memory"
    fresh = "created"
    clock_slack = 0.0

    def __init__(self, folder: Path) -> None:
        self.instance = f"test-{new_flow_id()}"
        self.engine = MemoryEngine()
        self.sockets_dir = folder / "sockets"

    async def open(self) -> Runtime:
        return await self._opened(self.instance)

    async def open_other_instance(self) -> Runtime:
        return await self._opened(f"other-{self.instance}")

    async def _opened(self, instance: str) -> MemoryRuntime:
        runtime = MemoryRuntime(self.name, instance=instance, engine=self.engine)
        await runtime.open()
        return runtime

    def spec(self, behaviour: Behaviour, *, code: int = 0, lines: tuple[str, ...] = (), **overrides: Any) -> FlowSpec:
        command = {"exits": ("exit", str(code)), "prints": ("print", *lines), "complains": ("complain", *lines)}.get(
            behaviour
        ) or COMMANDS[behaviour]
        serves = 8000 if behaviour == "serves" else None
        return flow_spec(
            self.instance,
            image="memory",
            command=command,
            serves=serves,
            channels=self.sockets_dir,
            overrides=overrides,
        )

    async def outside_kill(self, runtime: Runtime, id: str) -> None:
        self.engine.flows[id].die(137)

    async def outside_stop(self, runtime: Runtime, id: str) -> bool:
        assert isinstance(runtime, MemoryRuntime)
        runtime.outside_stop(id)
        return True

    def expected_environment(self, spec: FlowSpec) -> dict[str, str | None]:
        assert spec.channel_folder is not None
        return {"FLOW_ID": spec.id, "FLOW_SOCKET": str(spec.channel_folder / f"{spec.id}.sock")}

    async def leftovers(self) -> list[str]:
        return [id for id, flow in self.engine.flows.items() if flow.spec.instance == self.instance]


@asynccontextmanager
async def harness(tmp_path: Path) -> AsyncIterator[MemoryHarness]:
    ready = MemoryHarness(tmp_path)
    try:
        yield ready
    finally:
        await ready.engine.close()
