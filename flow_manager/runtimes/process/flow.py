"""One flow as a local process: its record, its leader while it runs, and what can be done to it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flow_manager.errors import ContainerRunning, ContainerStopped, NoSpace, RuntimeRefused, StartFailed
from flow_manager.runtimes.base import (
    LABEL_ID,
    LABEL_INSTANCE,
    LABEL_NAME,
    LABEL_TENANT,
    Observation,
    RuntimeEvent,
)
from flow_manager.runtimes.inside import MARK
from flow_manager.runtimes.marked import Marked
from flow_manager.runtimes.ports import choose_ports
from flow_manager.runtimes.process import holding, kernel, launch, record
from flow_manager.runtimes.process.cgroup import DelegatedCgroup, FlowCgroup, Limits
from flow_manager.runtimes.process.group import FlowGroup
from flow_manager.runtimes.process.holding import Holding, opened_pty
from flow_manager.runtimes.process.leader import Leader
from flow_manager.runtimes.process.output import Output
from flow_manager.runtimes.process.place import Place
from flow_manager.runtimes.process.record import Record, Run
from flow_manager.runtimes.signals import signal_number
from flow_manager.util.clock import Clock

log = logging.getLogger(__name__)

# What was killed in a cgroup leaves it a moment later; until then the kernel keeps the folder.
CGROUP_TIMEOUT = 1.0
CGROUP_POLL = 0.001
WORK_FOLDER = "work"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all flows of one runtime share."""

    clock: Clock
    boot_id: str
    manager_environment: Mapping[str, str]
    cgroup: DelegatedCgroup | None
    publish: Callable[[RuntimeEvent], None]
    promised_ports: Callable[[], Collection[int]]


class ProcessFlow:
    """`folder` is the flow's own; all else is in the record. Not safe for threads; `lock` orders starts and removal."""

    def __init__(self, folder: Path, kept: Record, around: Surroundings) -> None:
        self.folder = folder
        self.record = kept
        self.lock = asyncio.Lock()
        self.output = Output(folder, tty=kept.spec.tty)
        self.removed = False
        self._around = around
        self.group = FlowGroup(kept.spec.name, jobs=kept.spec.tty)
        self.holding = Holding(kept.spec.id, folder)
        # Commands that run beside the flow's own program, each with a group of its own: they freeze and go on with it.
        self.beside: set[Leader] = set()
        self._oom_kills_before = 0
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.record.spec.id

    @property
    def runs(self) -> bool:
        return self.group.leader is not None

    @property
    def ports(self) -> Mapping[str, int]:
        return self.record.run.ports if self.runs and self.record.run is not None else {}

    def observe(self) -> Observation:
        kept, spec = self.record, self.record.spec
        state = kept.state
        if self.runs:
            state = "paused" if self.group.frozen else "running"  # type: ignore[assignment]
        elif state == "starting":
            state = "created"
        return Observation(
            id=spec.id,
            runtime_id=spec.id,
            name=spec.name,
            state=state,  # type: ignore[arg-type]
            exit_code=kept.exit_code,
            error=kept.error,
            started_at=kept.run.started_at if kept.run else None,
            created_at=kept.created_at,
            image=spec.image,
            ports=dict(self.ports),
            labels={
                **spec.labels,
                LABEL_ID: spec.id,
                LABEL_NAME: spec.name,
                LABEL_INSTANCE: spec.instance,
                LABEL_TENANT: spec.tenant,
            },
            oom_killed=kept.oom_killed,
        )

    # --- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Under `lock`, and carried through whatever happens to the caller: a process must never be one nobody knows."""
        await self.swept()  # what the last run left bears the FLOW_ID of the next one, too
        spec = self.record.spec
        before = self.record
        ports = choose_ports(spec.ports, promised=self._around.promised_ports(), kind=launch.KIND)
        cgroup: FlowCgroup | None = None
        self._save(replace(before, state="starting", error=None, exit_code=None, oom_killed=False))
        try:
            cgroup = self._make_cgroup()
            output, errors = self.output.open_for_flow()
            try:
                pid, holder = await asyncio.to_thread(
                    self._spawn,
                    environment=self.environment(ports),
                    folder=self.working_folder(),
                    output=output,
                    errors=errors,
                    cgroup_procs=cgroup.procs if cgroup else None,
                )
            finally:
                os.close(output)
                os.close(errors)
            if holder is not None:
                self.holding.begin(holder)
            leader = Leader.hold(pid)
            if leader is None:  # only the parent can reap it, and that is us
                raise StartFailed("its process vanished", reason="its process vanished")
            run = Run(pid, leader.start_ticks, self._around.boot_id, self._around.clock.now(), ports)
            # Unwritten (a full disk), the record still says `starting`, and a restart finds the process by its FLOW_ID.
            self._save_quietly(replace(self.record, state="running", run=run))
        except StartFailed as failure:
            if cgroup:
                cgroup.remove()
            self._save_quietly(
                replace(
                    before,
                    exit_code=failure.details.get("exit_code", before.exit_code),
                    error=failure.message,
                )
            )
            raise
        except OSError as exc:
            if cgroup:
                cgroup.remove()
            self._save_quietly(before)
            raise translate(exc) from exc
        self.group.follow(leader, self._leader_ended)
        self._publish("started")

    def _spawn(self, *, output: int, **how: Any) -> tuple[int, int | None]:
        """The pids of its first process and of its terminal's holder; in a thread. :raises StartFailed:"""
        spec = self.record.spec
        if not spec.tty:
            return launch.spawn(spec.command or (), output=output, **how), None
        try:
            with opened_pty() as (master, slave):
                pid = launch.spawn(spec.command or (), **{**how, "output": slave, "errors": slave}, terminal=True)
                try:
                    manager = self._around.manager_environment
                    return pid, holding.start(
                        self.id, self.folder, master=master, leader=pid, output=output, manager=manager
                    )
                except OSError:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise
        except OSError as exc:
            reason = f"no terminal is to be had: {exc.strerror or exc}"
            raise StartFailed(reason, reason=reason) from exc

    def environment(self, ports: Mapping[str, int]) -> dict[str, str]:
        return launch.environment(self.record.spec, ports, self._around.manager_environment)

    def place(self) -> Place:
        """Where something that runs beside the flow's own program belongs. :raises ContainerStopped:"""
        run = self.record.run
        if not self.runs or run is None:
            raise ContainerStopped(f"flow {self.record.spec.name!r} does not run", state=self.record.state)
        cgroup = self.cgroup()
        return Place(self.environment(run.ports), self.working_folder(), cgroup.procs if cgroup else None)

    def working_folder(self) -> Path:
        spec = self.record.spec
        if spec.working_dir is not None:
            return Path(spec.working_dir)
        if spec.code_folder is not None:
            return spec.code_folder
        own = self.folder / WORK_FOLDER
        own.mkdir(exist_ok=True)
        return own

    def _make_cgroup(self) -> FlowCgroup | None:
        spec = self.record.spec
        limits = Limits(spec.memory, spec.cpus, spec.pids)
        if not limits.any:
            return None
        if self._around.cgroup is None:  # it had one when it was created: never start without the limits
            reason = "the cgroup for its limits is not there any more"
            raise StartFailed(reason, reason=reason)
        made = self._around.cgroup.make(spec.id, limits)
        self._oom_kills_before = made.oom_kills()  # a folder that could not be removed yet still counts the last run's
        return made

    def cgroup(self) -> FlowCgroup | None:
        return self._around.cgroup.of(self.id) if self._around.cgroup else None

    # --- its end ------------------------------------------------------------------------------------------------------

    def _leader_ended(self) -> None:
        """The leader ended: what else is in its group ends with it, as in a container. Then it is reaped."""
        leader = self.group.leader
        if leader is None:
            return
        cgroup = self.cgroup()
        try:
            leader.signal_group(signal.SIGKILL)
        except PermissionError:
            log.warning("processes of flow %s became another user's and were left", self.id)
        if cgroup:
            cgroup.kill()
        code = leader.reap()
        self.group.forget()
        oom = cgroup is not None and cgroup.oom_kills() > self._oom_kills_before
        if cgroup:
            cgroup.remove()
        self._save_quietly(
            replace(self.record, state="stopped" if code is None else "exited", exit_code=code, oom_killed=oom)
        )
        self._begin_sweep()
        self._publish("died", exit_code=code, cause="oom" if oom else "exit")

    def _begin_sweep(self) -> None:
        """End what its group's end did not reach: its FLOW_ID is in the environment, whatever session or parent it has.

        Not commands and terminals, which have an end of their own: shells get time to write their history.
        """
        self._sweeping = asyncio.create_task(self._sweep_up(), name="process-sweep")

    async def _sweep_up(self) -> None:
        await Marked("FLOW_ID", self.id, ours=lambda pid: MARK not in kernel.environment_of(pid)).kill()
        if self.record.spec.tty:
            await self.holding.ended()

    @property
    def written(self) -> bool:
        """True once it does not run and all that it wrote is in its files: on a terminal that is a moment later."""
        return not self.runs and not (self.record.spec.tty and self._sweeping is not None and not self._sweeping.done())

    async def swept(self) -> None:
        """Return once what an ended run left has ended."""
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    async def sweep(self) -> None:
        """End all that bears its FLOW_ID, commands and terminals too."""
        await self.swept()
        await Marked("FLOW_ID", self.id).kill()

    # --- while it runs ------------------------------------------------------------------------------------------------

    async def pause(self) -> None:
        """:raises ContainerStopped, StopFailed:"""
        if await self.group.freeze():
            self._signal_beside(signal.SIGSTOP)
            self._publish("paused")

    async def unpause(self) -> None:
        """:raises ContainerStopped, StopFailed:"""
        if await self.group.thaw():
            self._signal_beside(signal.SIGCONT)
            self._publish("unpaused")

    def _signal_beside(self, number: int) -> None:
        for leader in self.beside:
            try:
                leader.signal_group(number)
            except PermissionError:
                log.warning("a command in flow %s became another user's", self.id)

    def stop_number(self, name: str | None) -> int:
        """:raises InvalidRequest: no such signal."""
        return signal_number(name or self.record.spec.stop_signal or "SIGTERM")

    # --- the record ---------------------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """After a manager's start: find the process of the record, or learn that it ended."""
        kept = self.record
        if kept.state == "starting":
            kept = self._find_half_started()
        if kept.state != "running" or kept.run is None:
            self.record = kept
            return
        self.record = kept
        if kept.spec.tty:
            self.holding.find()
        leader = Leader.hold(kept.run.pid, kept.run.start_ticks) if kept.run.boot_id == self._around.boot_id else None
        if leader is not None:
            self.group.follow(leader, self._leader_ended)
            if leader.ended:
                self._leader_ended()
            return
        if kept.run.boot_id == self._around.boot_id:
            self._begin_sweep()
        self._save_quietly(replace(kept, state="stopped", exit_code=None))

    def _find_half_started(self) -> Record:
        pid = kernel.find_session_leader("FLOW_ID", self.id, without=MARK)
        stat = kernel.read_stat(pid) if pid else None
        if pid is None or stat is None:
            return replace(self.record, state="stopped" if self.record.run else "created")
        run = Run(pid, stat.start_ticks, self._around.boot_id, self._around.clock.now())
        found = replace(self.record, state="running", run=run)
        self._save_quietly(found)
        return found

    async def discard(self) -> None:
        """Remove all that was kept for it. :raises RuntimeRefused: it can't be removed."""
        deadline = self._around.clock.monotonic() + CGROUP_TIMEOUT
        while (cgroup := self.cgroup()) and self._around.clock.monotonic() < deadline:
            cgroup.remove()
            await asyncio.sleep(CGROUP_POLL)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise RuntimeRefused(f"the folder of flow {self.id} can't be removed", kind=launch.KIND)
        self.removed = True

    def refuse_if_running(self) -> None:
        if self.runs:
            raise ContainerRunning(f"flow {self.record.spec.name!r} is running", state=self.observe().state)

    def cgroup_usage(self) -> tuple[int | None, int | None]:
        cgroup = self.cgroup()
        return (cgroup.memory(), cgroup.pids()) if cgroup else (None, None)

    def _save(self, kept: Record) -> None:
        try:
            record.save(self.folder, kept)
        except OSError as exc:
            raise translate(exc) from exc
        self.record = kept

    def _save_quietly(self, kept: Record) -> None:
        """What happened has happened, written or not; a restart would find it out again."""
        self.record = kept
        try:
            record.save(self.folder, kept)
        except OSError as exc:
            log.warning("the record of flow %s could not be written: %s", self.id, exc)

    def _publish(self, type: Any, **details: Any) -> None:
        self._around.publish(RuntimeEvent(type, self.id, at=self._around.clock.now(), **details))


def translate(exc: OSError) -> NoSpace | RuntimeRefused:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk of the state folder is full", kind=launch.KIND)
    return RuntimeRefused(f"the state folder: {exc.strerror or exc}", kind=launch.KIND)
