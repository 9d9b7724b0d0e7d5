"""The make-believe engine: it holds the flows, so that they outlive a runtime object as containers outlive a client."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from flow_manager.errors import ImageNotFound, NameConflict, StartFailed
from flow_manager.runtimes.base import (
    CODE_FOLDER_IN_CONTAINER,
    LABEL_ID,
    LABEL_INSTANCE,
    LABEL_NAME,
    LABEL_TENANT,
    FlowSpec,
    Observation,
    Progress,
    RuntimeEvent,
)
from flow_manager.runtimes.inside import LogStream
from flow_manager.runtimes.memory import programs
from flow_manager.runtimes.memory.exec import COMMANDS, Program
from flow_manager.runtimes.memory.log import MemoryLog
from flow_manager.runtimes.memory.terminal import MemoryTerminal
from flow_manager.runtimes.ports import choose_ports
from flow_manager.runtimes.signals import KILLED_BY_SIGNAL
from flow_manager.util.clock import Clock, SystemClock

KIND = "memory"
IMAGES: Mapping[str, tuple[str, ...]] = {"memory": ("sleep",), "echo": ("echo",)}
"""Images and their default commands."""
SIGKILL, SIGTERM, SIGCONT, SIGSTOP = 9, 15, 18, 19
# Signals whose default is to be ignored, or that the programs could not care less about.
HARMLESS = frozenset({17, 23, 28})
Listener = Callable[[str, RuntimeEvent], None]


class MemoryFlow:
    """One flow. Its state changes only in the methods here, all of them synchronous: no half-way states."""

    def __init__(self, spec: FlowSpec, engine: MemoryEngine, *, others: bool = False) -> None:
        self.spec = spec
        # Made by somebody else: to be adopted. One made anew under the same id is another container.
        self.others = others
        self.number = next(engine.numbers)
        self.state: Literal["created", "running", "paused", "exited"] = "created"
        self.exit_code: int | None = None
        self.error: str | None = None
        self.oom_killed = False
        self.created_at = engine.clock.now()
        self.started_at: datetime | None = None
        self.ports: dict[str, int] = {}
        self.log = MemoryLog(engine.clock)
        self.ended = asyncio.Event()
        self.terminals: list[MemoryTerminal] = []
        self._engine = engine
        self._thawed = asyncio.Event()
        self._background: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def command(self) -> tuple[str, ...]:
        return self.spec.command or self._engine.images[self.spec.image]

    # What programs see (`programs.Inside`).

    @property
    def channel(self) -> Path | None:
        return self.spec.channel_folder / f"{self.spec.id}.sock" if self.spec.channel_folder else None

    @property
    def port(self) -> int | None:
        lowest = min(self.spec.ports, key=lambda port: port.container_port, default=None)
        return self.ports[f"{lowest.container_port}/{lowest.protocol}"] if lowest else None

    async def thawed(self) -> None:
        await self._thawed.wait()

    def write(self, line: str, stream: LogStream = "stdout") -> None:
        self.log.write(line, stream)

    def environment(self) -> dict[str, str]:
        told = {"FLOW_ID": self.spec.id}
        if self.channel is not None:
            told["FLOW_SOCKET"] = str(self.channel)
        told.update(self.spec.channel_variables)
        if self.spec.code_folder is not None:
            told["FLOW_CODE"] = CODE_FOLDER_IN_CONTAINER
        return {**self.spec.environment, **told}

    # What happens to it.

    def start(self) -> None:
        """:raises StartFailed: no such command. :raises PortInUse:"""
        word, *arguments = self.command
        if word not in programs.STAYS | programs.ENDS:
            self.error = f"the command {word!r} was not found"
            self.exit_code = 127
            raise StartFailed(self.error, reason=self.error, exit_code=127)
        self.ports = choose_ports(self.spec.ports, promised=self._engine.promised_ports(), kind=KIND)
        self.state, self.exit_code, self.error, self.oom_killed = "running", None, None, False
        self.started_at = self._engine.clock.now()
        self.ended.clear()
        self._thawed.set()
        self._tell("started")
        loop = asyncio.get_running_loop()
        if word in programs.ENDS:
            code = int(arguments[0]) if arguments else 0
            after = programs.DIES_AFTER if word == "die-soon" else 0
            self._timer = loop.call_later(after, self.die, code)
        elif word in programs.BACKGROUND:
            self._background = asyncio.ensure_future(programs.BACKGROUND[word](self))
        else:
            for line in arguments if word in ("print", "complain") else ():
                self.write(line, "stderr" if word == "complain" else "stdout")
            if word == "env":
                for name, value in self.environment().items():
                    self.write(f"{name}={value}")
            self.write("ready")

    def signal(self, number: int) -> None:
        """As the kernel and the program would take it."""
        if number == SIGSTOP:
            self.pause()
        elif number == SIGCONT:
            self.unpause()
        elif number == SIGKILL:
            self.die(KILLED_BY_SIGNAL + SIGKILL)
        elif number in HARMLESS or (number == SIGTERM and self.command[0] == "ignore-term"):
            return
        elif self.state == "running":  # a paused one would act on it only once it goes on
            self.die(0 if number == SIGTERM and self.command[0] == "polite" else KILLED_BY_SIGNAL + number)

    def die(self, code: int | None, *, cause: str = "exit") -> None:
        if not self.running:
            return
        self.state, self.exit_code, self.oom_killed = "exited", code, cause == "oom"
        self.release()
        self.log.stir()
        self.ports = {}
        self.ended.set()
        for terminal in list(self.terminals):
            terminal.end(code if terminal.main else KILLED_BY_SIGNAL + SIGKILL)
        self._tell("died", exit_code=code, cause=cause)

    def pause(self) -> None:
        if self.state == "running":
            self.state = "paused"
            self._thawed.clear()
            self._tell("paused")

    def unpause(self) -> None:
        if self.state == "paused":
            self.state = "running"
            self._thawed.set()
            self._tell("unpaused")

    def release(self) -> None:
        """End what runs for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._background is not None:
            self._background.cancel()
            self._engine.farewell(self._background)
            self._background = None

    def observe(self) -> Observation:
        spec = self.spec
        labels = {LABEL_ID: spec.id, LABEL_NAME: spec.name, LABEL_INSTANCE: spec.instance, LABEL_TENANT: spec.tenant}
        published = {f"{port.container_port}/{port.protocol}": port.host_port for port in spec.ports}
        return Observation(
            id=spec.id,
            runtime_id=f"memory-{spec.id}-{self.number}" if self.others else f"memory-{spec.id}",
            name=spec.name,
            state=self.state,
            exit_code=self.exit_code,
            error=self.error,
            started_at=self.started_at,
            created_at=self.created_at,
            image=spec.image,
            ports=dict(self.ports),
            labels=dict(spec.labels) if self.others else {**spec.labels, **labels},
            oom_killed=self.oom_killed,
            adopted=self.others,
            published=published if self.others else {},
            environment=dict(spec.environment) if self.others else {},
        )

    def _tell(self, type: Any, **details: Any) -> None:
        self._engine.publish(
            self.spec.instance, RuntimeEvent(type, self.spec.id, at=self._engine.clock.now(), **details)
        )


class MemoryEngine:
    """`images`: known ones with their default commands. `pulls`: images that can be had, with what a pull says meanwhile."""

    def __init__(
        self,
        *,
        images: Mapping[str, tuple[str, ...]] = IMAGES,
        pulls: Mapping[str, tuple[str, ...]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.images = dict(images)
        self.pulls = dict(pulls or {})
        self.clock = clock or SystemClock()
        # What `exec` can run; a test may add to it.
        self.commands: dict[str, Program] = dict(COMMANDS)
        self.flows: dict[str, MemoryFlow] = {}
        self.numbers = itertools.count(1)
        self._listeners: list[Listener] = []
        self._ending: set[asyncio.Task[None]] = set()

    def create(self, spec: FlowSpec, progress: Progress | None) -> MemoryFlow:
        """:raises ImageNotFound, NameConflict:"""
        if spec.image not in self.images:
            if spec.image not in self.pulls:
                raise ImageNotFound(
                    f"no image '{spec.image}'", kind=KIND, image=spec.image, reason="the memory runtime has none"
                )
            if progress is not None:
                for line in self.pulls[spec.image]:
                    progress(line)
            self.images[spec.image] = ("sleep",)
        if spec.id in self.flows or any(
            flow.spec.container_name == spec.container_name for flow in self.flows.values()
        ):
            raise NameConflict(f"the name {spec.name!r} is taken", kind=KIND, name=spec.name)
        flow = self.flows[spec.id] = MemoryFlow(spec, self)
        self.publish(spec.instance, RuntimeEvent("created", spec.id, at=self.clock.now()))
        return flow

    def appear(self, spec: FlowSpec) -> MemoryFlow:
        """Somebody else makes a container, or makes it anew: then the old one ends unseen, as a replaced one does."""
        old = self.flows.pop(spec.id, None)
        if old is not None:
            old.release()
        flow = self.flows[spec.id] = MemoryFlow(spec, self, others=True)
        self.publish(spec.instance, RuntimeEvent("created", spec.id, at=self.clock.now()))
        return flow

    def remove(self, id: str) -> None:
        """Whatever it does; nothing when it is not there."""
        flow = self.flows.pop(id, None)
        if flow is not None:
            flow.die(KILLED_BY_SIGNAL + SIGKILL)
            self.publish(flow.spec.instance, RuntimeEvent("removed", id, at=self.clock.now()))

    def promised_ports(self) -> set[int]:
        return {port for flow in self.flows.values() for port in flow.ports.values()}

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def publish(self, instance: str, event: RuntimeEvent) -> None:
        for listener in list(self._listeners):
            listener(instance, event)

    def farewell(self, task: asyncio.Task[None]) -> None:
        """A cancelled program's task is waited for in `close`, so that none outlives the engine."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End every flow's program. Nothing is told; the engine is gone."""
        self._listeners.clear()
        for flow in self.flows.values():
            flow.release()
        if self._ending:
            await asyncio.wait(set(self._ending))
