"""The runtime `process`: flows as child processes of this machine.

It isolates nothing. A flow runs as the manager's own user, sees the whole file system, all processes and networks of the
host, and may signal whatever that user may. Use it for programs that you would start from your own shell.

What it does give: a session and process group of its own (signals, pause and end reach the whole group, and one that left
it is found by its environment), an environment of its own, exit codes, output in files, limits where a cgroup v2 was delegated,
and flows that live on while the manager restarts. Linux only (pidfd).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flow_manager.contract.models import ResourceUsage
from flow_manager.errors import ContainerNotFound, ExecFailed, NameConflict, RuntimeUnavailable
from flow_manager.runtimes.base import Capabilities, FlowSpec, Observation, Progress, RuntimeEvent
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.inside import (
    MARK,
    Command,
    ExecOutcome,
    LogLine,
    LogPosition,
    NothingInside,
    Terminal,
    no_terminal_of_its_own,
)
from flow_manager.runtimes.process import cgroup, exec, kernel, launch, main_terminal, record
from flow_manager.runtimes.process.flow import ProcessFlow, Surroundings, translate
from flow_manager.runtimes.process.logs import follow
from flow_manager.runtimes.process.main_terminal import MainTerminal
from flow_manager.runtimes.process.record import Record
from flow_manager.runtimes.process.terminal import ProcessTerminal, open_terminal
from flow_manager.runtimes.process.usage import UsageMeter
from flow_manager.runtimes.signals import signal_number
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.clock import Clock, SystemClock

log = logging.getLogger(__name__)

CAPABILITIES = Capabilities(exec=True, attach=True, put_code=True, tty=True, isolation=False)
FOLDER = "process"
# A folder that a create has not finished yet; whatever bears this name at a start is of a manager that died.
UNFINISHED = ".new-"
# How often the output files are looked at: a flow that writes 100 MB/s is over its bound by that much at most.
TRIM_INTERVAL = 1.0
# A whole shutdown may take 8 s by default; flows get most of it.
STOP_ALL_GRACE = 5.0


class ProcessProvider(NothingInside):
    """A `Runtime`. `open` finds the flows that an earlier manager left and takes them over; `close` leaves them running."""

    kind = launch.KIND

    def __init__(
        self,
        name: str,
        settings: RuntimeSettings,
        *,
        instance: str,
        limits: LimitSettings,
        sockets_dir: Path,
        state_dir: Path,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.capabilities = CAPABILITIES
        self._settings = settings
        self._instance = instance
        # Two runtimes of this kind must not take each other's flows for their own.
        self._root = state_dir.absolute() / (FOLDER if name == FOLDER else f"{FOLDER}-{name}")
        self._clock = clock or SystemClock()
        self._environ = os.environ if environ is None else environ
        self._flows: dict[str, ProcessFlow] = {}
        self._hub = EventHub()
        self._meter = UsageMeter(self._clock)
        self._starting: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.Task[None] | None = None
        self._terminals: dict[ProcessTerminal, str] = {}
        self._mains: dict[MainTerminal, str] = {}
        self._around: Surroundings | None = None
        self._unavailable = "it is not open"

    # --- its own life -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        try:
            os.close(os.pidfd_open(os.getpid()))
            boot_id = kernel.boot_id()
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except AttributeError:
            self._unavailable = "local processes need Linux"
            return
        except OSError as exc:
            self._unavailable = f"local processes need /proc, pidfd and a writable state folder: {exc}"
            return
        found = self._find_cgroup()
        self.capabilities = replace(CAPABILITIES, limits=found is not None)
        self._around = Surroundings(
            clock=self._clock,
            boot_id=boot_id,
            manager_environment=self._environ,
            cgroup=found,
            publish=self._publish,
            promised_ports=self._promised_ports,
        )
        self._take_over(self._around)
        self._trimming = asyncio.create_task(self._keep_trimmed(), name=f"{self.name}-trim-output")

    async def close(self) -> None:
        """Flows go on, and are found again by the next `open`; `stop_all` ends them."""
        if self._starting:
            await asyncio.wait(self._starting)
        if self._trimming is not None:
            self._trimming.cancel()
            await asyncio.wait([self._trimming])
            self._trimming = None
        terminals: list[Terminal] = [*self._terminals, *self._mains]
        await asyncio.gather(*(terminal.close() for terminal in terminals))
        for flow in self._flows.values():
            flow.group.forget()
            await flow.swept()
            flow.holding.forget()
        self._flows.clear()
        self._around = None
        self._unavailable = "it is closed"
        self._hub.close()

    async def stop_all(self, grace: float = STOP_ALL_GRACE) -> int:
        """End every flow of this instance, all at once: its stop signal, then KILL after `grace` seconds.

        For the manager's own end: local processes do not outlive a service that was told to stop. Gives how many ended.
        """
        running = [flow for flow in self._flows.values() if flow.runs]
        outcomes = await asyncio.gather(
            *(flow.group.stop(flow.stop_number(None), grace) for flow in running), return_exceptions=True
        )
        await asyncio.gather(*(flow.sweep() for flow in running))
        for flow, outcome in zip(running, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("flow %s could not be ended: %s", flow.id, outcome)
        return sum(not flow.runs for flow in running)

    async def ping(self, timeout: float = 5.0) -> None:
        self._open()

    # --- flows --------------------------------------------------------------------------------------------------------

    async def create(self, spec: FlowSpec, progress: Progress | None = None) -> Observation:
        # Nothing here waits, so that nothing can be cancelled half-way; a failure undoes what was done.
        around = self._open()
        launch.refuse_what_it_cannot(spec, limits=self.capabilities.limits)
        folder, unfinished = self._root / spec.id, self._root / f"{UNFINISHED}{spec.id}"
        if folder.exists() or any(
            flow.record.spec.container_name == spec.container_name for flow in self._flows.values()
        ):
            raise NameConflict(f"the name {spec.name!r} is taken", kind=self.kind, name=spec.name)
        kept = Record(spec=spec, created_at=self._clock.now())
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            record.save(unfinished, kept)
            unfinished.rename(folder)
        except OSError as exc:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise translate(exc) from exc
        flow = self._flows[spec.id] = ProcessFlow(folder, kept, around)
        self._hub.publish(RuntimeEvent("created", spec.id, at=self._clock.now()))
        return flow.observe()

    async def start(self, id: str) -> Observation:
        flow = self._flow(id)
        starting = asyncio.create_task(self._start(flow), name=f"{self.name}-start-{id}")
        self._starting.add(starting)
        starting.add_done_callback(self._started)
        # A caller that gives up must not leave a process of which nobody knows: the start is carried through.
        await asyncio.shield(starting)
        return flow.observe()

    async def _start(self, flow: ProcessFlow) -> None:
        async with flow.lock:
            if flow.removed:
                raise self._not_found(flow.id)
            if flow.runs:
                await flow.unpause()
            else:
                await flow.start()

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller, unless it gave up: then nobody asks, and nothing warns of it

    async def stop(self, id: str, *, signal: str | None = None, timeout: float = 10.0) -> Observation:
        flow = self._flow(id)
        number = flow.stop_number(signal)
        if flow.runs:
            await flow.group.stop(number, timeout)
        await flow.sweep()
        return flow.observe()

    async def kill(self, id: str, signal: str = "SIGKILL") -> Observation:
        flow = self._flow(id)
        number = signal_number(signal)
        flow.group.send(number)
        if number == signal_number("SIGKILL"):
            await flow.group.kill()
            await flow.sweep()
        return flow.observe()

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        return await exec.run(self._flow(id), command, timeout=timeout, limit=limit)

    async def pause(self, id: str) -> Observation:
        flow = self._flow(id)
        await flow.pause()
        return flow.observe()

    async def unpause(self, id: str) -> Observation:
        flow = self._flow(id)
        await flow.unpause()
        return flow.observe()

    async def remove(self, id: str, *, force: bool = False) -> None:
        self._open()
        flow = self._flows.get(id)
        if flow is None:
            return
        async with flow.lock:
            if flow.removed:
                return
            if not force:
                flow.refuse_if_running()
            elif flow.runs:
                await flow.group.kill()
            await flow.sweep()
            await flow.discard()
            self._flows.pop(id, None)
            self._meter.forget(id)
        self._hub.publish(RuntimeEvent("removed", id, at=self._clock.now()))

    async def inspect(self, id: str) -> Observation:
        return self._flow(id).observe()

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        flow = self._flow(id)
        if not flow.runs and not flow.written:
            await flow.swept()
        try:
            lines = flow.output.tail(tail, ended=not flow.runs)
        except OSError as exc:
            raise translate(exc) from exc
        return [line for line in lines if since is None or line.timestamp is None or line.timestamp >= since]

    def follow_logs(self, id: str, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        return follow(self._flow(id), after)

    async def stats(self, id: str) -> ResourceUsage:
        flow = self._flow(id)
        run = flow.record.run
        if not flow.runs or run is None:
            return ResourceUsage()
        return self._meter.read(id, run.pid, flow.record.spec.memory, flow.cgroup_usage())

    async def glance(self) -> list[Observation]:
        return await self.list()

    async def list(self) -> list[Observation]:
        self._open()
        return [flow.observe() for flow in self._flows.values()]

    def watch(self) -> AsyncIterator[RuntimeEvent]:
        return self._hub.watch()

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        flow = self._flow(id)
        if main:
            return await self._attach_main(flow, cols, rows)
        terminal = await open_terminal(flow.place(), command, cols, rows)
        self._terminals[terminal] = id
        flow.beside.add(terminal.leader)
        terminal.on_end(lambda: self._terminals.pop(terminal, None))
        terminal.on_end(lambda: flow.beside.discard(terminal.leader))
        return terminal

    async def _attach_main(self, flow: ProcessFlow, cols: int, rows: int) -> Terminal:
        if not flow.record.spec.tty:
            raise no_terminal_of_its_own()
        flow.place()  # it runs
        try:
            terminal = await main_terminal.attach(flow.folder, cols, rows)
        except ExecFailed:
            flow.place()  # it has ended meanwhile
            raise
        self._mains[terminal] = flow.id
        terminal.on_close(lambda: self._mains.pop(terminal, None))
        if not flow.runs:
            terminal.flow_ended(flow.record.exit_code)
        return terminal

    # --- inside -------------------------------------------------------------------------------------------------------

    def _publish(self, event: RuntimeEvent) -> None:
        if event.type == "died":
            # In a container its terminals would end with it, too.
            for terminal, flow_id in list(self._terminals.items()):
                if flow_id == event.id:
                    terminal.begin_end()
            for own, flow_id in list(self._mains.items()):
                if flow_id == event.id:
                    own.flow_ended(event.exit_code)
        self._hub.publish(event)

    def _open(self) -> Surroundings:
        if self._around is None:
            raise RuntimeUnavailable(f"the runtime {self.name!r} can't be used: {self._unavailable}", kind=self.kind, reason=self._unavailable)  # fmt: skip
        return self._around

    def _flow(self, id: str) -> ProcessFlow:
        self._open()
        flow = self._flows.get(id)
        if flow is None:
            raise self._not_found(id)
        return flow

    def _not_found(self, id: str) -> ContainerNotFound:
        return ContainerNotFound(id, kind=self.kind)

    def _promised_ports(self) -> set[int]:
        return {port for flow in self._flows.values() for port in flow.ports.values()}

    def _find_cgroup(self) -> cgroup.DelegatedCgroup | None:
        if self._settings.cgroup is None:
            return cgroup.find_delegated()
        found = cgroup.DelegatedCgroup.usable(self._settings.cgroup)
        if found is None:
            log.warning(
                "%s can't carry limits: not a delegated cgroup v2 with memory, cpu and pids", self._settings.cgroup
            )
        return found

    def _take_over(self, around: Surroundings) -> None:
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith(UNFINISHED):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                kept = record.load(folder)
            except (OSError, ValueError) as exc:
                # One unreadable record must not hide the other flows; it is left for people to look at.
                log.warning("the record of flow %s can't be read: %s", folder.name, type(exc).__name__)
                continue
            if kept.spec.instance == self._instance:
                flow = self._flows[kept.spec.id] = ProcessFlow(folder, kept, around)
                flow.adopt()
        # Commands of a manager that was killed: nobody waits for them any more.
        kernel.kill_marked(MARK, "FLOW_ID", self._flows)

    async def _keep_trimmed(self) -> None:
        while True:
            await asyncio.sleep(TRIM_INTERVAL)
            for flow in [flow for flow in self._flows.values() if flow.runs]:
                try:
                    flow.output.trim()
                except OSError as exc:
                    log.warning("the output of flow %s could not be trimmed: %s", flow.id, exc)
