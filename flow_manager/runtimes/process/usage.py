"""What flows use, from `/proc`: one pass over all processes serves every flow that is asked about soon after."""

from __future__ import annotations

from flow_manager.contract.models import ResourceUsage
from flow_manager.runtimes.process import kernel
from flow_manager.util.clock import Clock

# Status of 500 flows, asked for at once, costs one pass instead of 500.
MAX_AGE = 0.5


class UsageMeter:
    """Remembers the cpu time of each flow's last reading: a percentage is between two of them, the first has none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[int, list[kernel.ProcessStat]] = {}
        self._taken = float("-inf")
        self._last: dict[str, tuple[int, float, int]] = {}  # flow → session, when, cpu ticks

    def read(
        self, flow_id: str, session: int, memory_limit: int | None, cgroup: tuple[int | None, int | None]
    ) -> ResourceUsage:
        """`cgroup`: memory and number of tasks as the flow's cgroup knows them, which is truer than the sum of its processes."""
        members = self._members(session)
        memory, tasks = cgroup
        return ResourceUsage(
            cpu_percent=self._cpu(flow_id, session, sum(member.cpu_ticks for member in members)),
            memory_bytes=sum(member.memory for member in members) if memory is None else memory,
            memory_limit_bytes=memory_limit,
            pids=sum(member.threads for member in members) if tasks is None else tasks,
        )

    def forget(self, flow_id: str) -> None:
        self._last.pop(flow_id, None)

    def _members(self, session: int) -> list[kernel.ProcessStat]:
        now = self._clock.monotonic()
        # A flow that started after the last pass is not in it.
        if now - self._taken > MAX_AGE or session not in self._sessions:
            self._sessions, self._taken = kernel.sessions(), now
        return self._sessions.get(session, [])

    def _cpu(self, flow_id: str, session: int, ticks: int) -> float | None:
        last = self._last.get(flow_id)
        if last is not None and last[0] == session and self._taken <= last[1]:
            return None
        self._last[flow_id] = (session, self._taken, ticks)
        if last is None or last[0] != session:
            return None
        seconds = max(0, ticks - last[2]) / kernel.TICKS_PER_SECOND
        return round(100 * seconds / (self._taken - last[1]), 1)
