"""The Runtime over a `MemoryEngine`: the protocol's rules, and the faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime

from flow_manager.contract.models import ResourceUsage
from flow_manager.errors import (
    ContainerNotFound,
    ContainerRunning,
    RuntimeUnavailable,
    Unsupported,
)
from flow_manager.runtimes.base import (
    LABEL_ENABLE,
    Capabilities,
    FlowSpec,
    Observation,
    Progress,
    RuntimeEvent,
)
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.inside import (
    Command,
    ExecOutcome,
    LogLine,
    LogPosition,
    NothingInside,
    Terminal,
    no_terminal_of_its_own,
)
from flow_manager.runtimes.memory import execution
from flow_manager.runtimes.memory.engine import KIND, SIGCONT, SIGKILL, MemoryEngine, MemoryFlow
from flow_manager.runtimes.memory.execution import first
from flow_manager.runtimes.memory.faults import Fault, Faults, When
from flow_manager.runtimes.memory.outside import Outside
from flow_manager.runtimes.memory.terminal import MemoryTerminal
from flow_manager.runtimes.signals import signal_number
from flow_manager.settings.models import FlowSettings

CAPABILITIES = Capabilities(
    exec=True, attach=True, put_code=True, networks=True, limits=True, tty=True, images=True, volumes=True
)
# As long as the service gives an engine call by default.
CALL_TIMEOUT = 120.0
MEMORY_OF_A_FLOW = 1024 * 1024
Sleep = Callable[[float], Awaitable[None]]


class MemoryRuntime(Outside, NothingInside):
    """A `Runtime` without an engine.

    Its flows end with `close`, unless an `engine` is given in: then they go on until that is closed, as containers would.
    `sleep` counts a stop's grace, delays and time-outs: a fake clock's makes them take no time. `capabilities` may be cut
    down to see what the rest does with `unsupported`; without `exit_codes` ended flows are `stopped`.
    """

    kind = KIND

    def __init__(
        self,
        name: str = "memory",
        *,
        instance: str = "test",
        faults: Faults | None = None,
        engine: MemoryEngine | None = None,
        capabilities: Capabilities = CAPABILITIES,
        sleep: Sleep = asyncio.sleep,
        call_timeout: float = CALL_TIMEOUT,
        flows: Sequence[FlowSettings] = (),
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.faults = faults or Faults()
        self.engine = engine or MemoryEngine()
        self._owns_engine = engine is None
        self._instance = instance
        self._declared = frozenset(flow.container for flow in flows)
        self._sleep = sleep
        self._call_timeout = call_timeout
        self._hub = EventHub()
        self._opened = False

    # --- its own life -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if not self._opened:
            self._opened = True
            self.engine.listen(self._tell)
            self.faults.listen(self._availability)

    async def close(self) -> None:
        self._opened = False
        self.engine.unlisten(self._tell)
        self.faults.unlisten(self._availability)
        self._hub.close()
        if self._owns_engine:
            await self.engine.close()

    async def ping(self, timeout: float = 5.0) -> None:
        try:
            async with asyncio.timeout(timeout), self._call("ping"):
                pass
        except TimeoutError:
            raise self._unavailable(f"no answer in {timeout} s") from None

    # --- flows --------------------------------------------------------------------------------------------------------

    async def create(self, spec: FlowSpec, progress: Progress | None = None) -> Observation:
        async with self._call("create"):
            self._refuse_what_it_cannot(spec)
            made = self.engine.create(spec, progress)
        return self._observe(made)

    async def start(self, id: str) -> Observation:
        async with self._call("start"):
            flow = self._flow(id)
            if flow.running:
                flow.unpause()
            else:
                flow.start()
            return self._observe(flow)

    async def stop(self, id: str, *, signal: str | None = None, timeout: float = 10.0) -> Observation:
        async with self._call("stop"):
            flow = self._flow(id)
            number = signal_number(signal or flow.spec.stop_signal or "SIGTERM")
            if flow.running:
                flow.signal(SIGCONT)
                flow.signal(number)
                await self._wait_for_end(flow, timeout)
                flow.signal(SIGKILL)
        return self._observe(flow)

    async def kill(self, id: str, signal: str = "SIGKILL") -> Observation:
        async with self._call("kill"):
            flow = self._flow(id)
            number = signal_number(signal)
            if number != SIGKILL:
                self._need("signals", "send signals")
            self._need_running(flow)
            flow.signal(number)
        return self._observe(flow)

    async def pause(self, id: str) -> Observation:
        async with self._call("pause"):
            flow = self._flow(id)
            self._need("pause", "pause flows")
            self._need_running(flow)
            flow.pause()
        return self._observe(flow)

    async def unpause(self, id: str) -> Observation:
        async with self._call("unpause"):
            flow = self._flow(id)
            self._need_running(flow)
            flow.unpause()
        return self._observe(flow)

    async def remove(self, id: str, *, force: bool = False) -> None:
        async with self._call("remove"):
            flow = self.engine.flows.get(id)
            if flow is None or flow.spec.instance != self._instance:
                return
            if flow.running and not force:
                raise ContainerRunning(f"flow {flow.spec.name!r} is running", state=flow.state)
            self.engine.remove(id)

    async def inspect(self, id: str) -> Observation:
        async with self._call("inspect"):
            return self._observe(self._flow(id))

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        async with self._call("logs"):
            self._need("logs", "show what flows write")
            return self._flow(id).log.tail(tail, since)

    async def follow_logs(self, id: str, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        async with self._call("follow_logs"):
            self._need("logs", "show what flows write")
            flow = self._flow(id)
        async with aclosing(flow.log.follow(after, lambda: not flow.running)) as batches:
            async for lines in batches:
                yield lines

    async def stats(self, id: str) -> ResourceUsage:
        async with self._call("stats"):
            flow = self._flow(id)
            if not flow.running:
                return ResourceUsage()
            return ResourceUsage(
                cpu_percent=0.0, memory_bytes=MEMORY_OF_A_FLOW, memory_limit_bytes=flow.spec.memory, pids=1
            )

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        async with self._call("attach"):
            flow = self._flow(id)
            self._need("attach", "open terminals")
            self._need_running(flow)
            if main and not flow.spec.tty:
                raise no_terminal_of_its_own()
            terminal = MemoryTerminal(command, cols, rows, main=main)
            flow.terminals.append(terminal)
            terminal.on_end(lambda: flow.terminals.remove(terminal))
        return terminal

    async def glance(self) -> list[Observation]:
        return await self.list()

    async def list(self) -> list[Observation]:
        async with self._call("list"):
            return [self._observe(flow) for flow in self.engine.flows.values() if self._is_mine(flow)]

    def watch(self) -> AsyncIterator[RuntimeEvent]:
        return self._hub.watch()

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        async with self._call("exec"):
            flow = self._flow(id)
            self._need("exec", "run commands")
            return await execution.run(
                flow, self.engine.commands, command, timeout=timeout, limit=limit, sleep=self._sleep
            )

    # --- inside -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _call(self, call: str) -> AsyncIterator[None]:
        if not self._opened:
            raise self._unavailable("it is not open")
        if self.faults.away is not None:
            raise self._unavailable(self.faults.away)
        await self._suffer(call, "before")
        yield
        await self._suffer(call, "after")

    async def _suffer(self, call: str, when: When) -> None:
        fault: Fault | None = self.faults.take(call, when)
        if fault is None:
            return
        if fault.hangs:
            if not await first(self.faults.released(call), self._sleep(self._call_timeout)):
                raise self._unavailable(f"{call} got no answer in {self._call_timeout:.0f} s")
        elif fault.seconds:
            await self._sleep(fault.seconds)
        if fault.error is not None:
            raise fault.error

    async def _wait_for_end(self, flow: MemoryFlow, timeout: float) -> None:
        if flow.running:
            await first(flow.ended.wait(), self._sleep(timeout))

    def _flow(self, id: str) -> MemoryFlow:
        flow = self.engine.flows.get(id)
        if flow is None or not self._is_mine(flow):
            raise ContainerNotFound(id, kind=KIND)
        return flow

    def _is_mine(self, flow: MemoryFlow) -> bool:
        spec = flow.spec
        asks = not flow.others or spec.labels.get(LABEL_ENABLE) == "true" or spec.container_name in self._declared
        return asks and spec.instance == self._instance

    def _observe(self, flow: MemoryFlow) -> Observation:
        seen = flow.observe()
        if seen.state == "exited" and not self.capabilities.exit_codes:
            return replace(seen, state="stopped", exit_code=None)
        return seen

    def _need(self, capability: str, words: str) -> None:
        if not getattr(self.capabilities, capability):
            raise Unsupported(f"this runtime can't {words}", kind=KIND, capability=capability)

    def _need_running(self, flow: MemoryFlow) -> None:
        if not flow.running:
            raise execution.not_running(flow)

    def _refuse_what_it_cannot(self, spec: FlowSpec) -> None:
        limits = (spec.memory, spec.cpus, spec.pids) != (None, None, None)
        for wanted, capability in (
            (limits, "limits"),
            (spec.mounts, "volumes"),
            (spec.networks, "networks"),
            (spec.tty, "tty"),
        ):
            if wanted:
                self._need(capability, f"give flows {capability}")

    def _unavailable(self, reason: str) -> RuntimeUnavailable:
        return RuntimeUnavailable(f"the runtime {self.name!r} can't be used: {reason}", kind=KIND, reason=reason)

    def _tell(self, instance: str, event: RuntimeEvent) -> None:
        if instance != self._instance or self.faults.away is not None or not self.capabilities.events:
            return
        if not self.capabilities.exit_codes:
            event = replace(event, exit_code=None)
        for _ in range(self.faults.copies(event)):
            self._hub.publish(event)

    def _availability(self, reason: str | None) -> None:
        if reason is not None:
            for flow in self.engine.flows.values():
                flow.log.fail(self._unavailable(reason))
        if reason is not None:
            self._hub.publish(RuntimeEvent("unavailable", reason=reason))
        else:
            self._hub.publish(RuntimeEvent("available"))
            self._hub.publish(RuntimeEvent("resync", reason="the engine is back"))
