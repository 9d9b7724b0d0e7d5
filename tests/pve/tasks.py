"""Workers: what a POST forks. A UPID names one, its exit status is `OK`, `WARNINGS: n` or the text that it died with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.pve.access import Identity
from tests.pve.errors import TaskFailed

FIRST_PID = 1201
JIFFIES = 100
KILLED = "unexpected status"
UPID = re.compile(
    r"UPID:([A-Za-z0-9][A-Za-z0-9-]*):([0-9A-F]{8}):([0-9A-F]{8,9}):([0-9A-F]{8}):([^:\s]+):([^:\s]*):([^:\s]+):"
)
Body = Callable[["Task"], Awaitable[None]]


@dataclass(slots=True)
class Task:
    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    who: Identity
    exitstatus: str | None = None
    endtime: int | None = None
    lines: list[str] = field(default_factory=list)
    warnings: int = 0
    work: asyncio.Task[None] | None = None

    @property
    def upid(self) -> str:
        stamps = f"{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}"
        return f"UPID:{self.node}:{stamps}:{self.type}:{self.id}:{self.who.id}:"

    @property
    def running(self) -> bool:
        return self.exitstatus is None

    @property
    def failed(self) -> bool:
        return not (self.running or self.exitstatus == "OK" or str(self.exitstatus).startswith("WARNINGS"))

    def describe(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "upid": self.upid,
            "node": self.node,
            "pid": self.pid,
            "pstart": self.pstart,
            "starttime": self.starttime,
            "type": self.type,
            "id": self.id,
            "user": self.who.user,
        }
        if self.who.token:
            told["tokenid"] = self.who.token
        return told


class Tasks:
    """All workers of the cluster, the newest last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pid = FIRST_PID
        self._began = clock()
        self.all: dict[str, Task] = {}
        self._fated: dict[str, list[str]] = {}

    def fate(self, type: str, status: str) -> None:
        """The next worker of this type ends with that status; without its effect, unless the status is a success."""
        self._fated.setdefault(type, []).append(status)

    def fork(self, node: str, type: str, id: str | int, who: Identity, body: Body, *, delay: float = 0.0) -> str:
        now = self._clock()
        pstart = int((now - self._began) * JIFFIES) + 0x1000
        task = Task(node, self._pid, pstart, int(now), type, str(id), who)
        self._pid += 1
        self.all[task.upid] = task
        fated = self._fated.get(type)
        status = fated.pop(0) if fated else None
        task.work = asyncio.create_task(self._run(task, body, delay, status), name=f"pve-{type}-{id}")
        return task.upid

    async def _run(self, task: Task, body: Body, delay: float, fated: str | None) -> None:
        ends = "OK"
        try:
            if fated is not None and not (fated == "OK" or fated.startswith("WARNINGS")):
                await asyncio.sleep(delay)
                raise TaskFailed(fated)
            await body(task)
            ends = fated or (f"WARNINGS: {task.warnings}" if task.warnings else "OK")
        except TaskFailed as failure:
            ends = str(failure)
        except asyncio.CancelledError:
            ends = KILLED
        task.lines.append(
            "TASK OK" if ends == "OK" else f"TASK {'' if ends.startswith('WARNINGS') else 'ERROR: '}{ends}"
        )
        task.exitstatus = ends
        task.endtime = int(self._clock())

    async def kill(self, task: Task) -> None:
        if task.work is not None and not task.work.done():
            task.work.cancel()
            await asyncio.wait([task.work])
        if task.exitstatus is None:  # cancelled before its first step
            task.exitstatus, task.endtime = KILLED, int(self._clock())

    async def close(self) -> None:
        for task in list(self.all.values()):
            await self.kill(task)
