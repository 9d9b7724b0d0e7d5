"""One reading of what a flow uses. Pure: two of the engine's answers → figures.

`one-shot` answers at once but without an earlier reading to compare with (the engine would wait a second for it), so the
earlier one is our own. Fields and formulas are those of Docker's command line (docker/cli, stats_helpers.go).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flow_manager.contract.models import ResourceUsage
from flow_manager.runtimes.docker.observe import dig, whole

NOTHING = ResourceUsage()


@dataclass(frozen=True, slots=True)
class CpuReading:
    """Nanoseconds of processor time: the flow's, and the whole machine's over all its cores."""

    flow: int
    machine: int


def cpu_reading(data: Any) -> CpuReading | None:
    flow = whole(dig(data, "cpu_stats", "cpu_usage", "total_usage"))
    machine = whole(dig(data, "cpu_stats", "system_cpu_usage"))
    return CpuReading(flow, machine) if flow is not None and machine else None


def usage(data: Any, before: CpuReading | None) -> ResourceUsage:
    """100 % is one core. Without an earlier reading there is no cpu figure; a flow that does not run has nulls."""
    memory = whole(dig(data, "memory_stats", "usage"))
    if not memory:
        return NOTHING
    # The page cache that can be dropped at once is not what the flow needs: cgroup v2, then v1.
    details = dig(data, "memory_stats", "stats")
    cache = whole(dig(details, "inactive_file")) if dig(details, "total_inactive_file") is None else None
    cache = cache if cache is not None else whole(dig(details, "total_inactive_file")) or 0
    return ResourceUsage(
        cpu_percent=_cpu_percent(data, before),
        memory_bytes=max(0, memory - cache),
        memory_limit_bytes=whole(dig(data, "memory_stats", "limit")) or None,
        pids=whole(dig(data, "pids_stats", "current")),
    )


def _cpu_percent(data: Any, before: CpuReading | None) -> float | None:
    now = cpu_reading(data)
    if now is None or before is None or now.machine <= before.machine or now.flow < before.flow:
        return None
    cores = whole(dig(data, "cpu_stats", "online_cpus")) or 1
    return round((now.flow - before.flow) / (now.machine - before.machine) * cores * 100, 1)
