"""The rows of `/cluster/resources`, `/nodes/N/lxc` and `status/current`. Pure, and never surprised by what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flow_manager.contract.models import ResourceUsage

Status = Literal["running", "stopped", "unknown"]
_TAGS = re.compile(r"[;,\s]+")


@dataclass(frozen=True, slots=True)
class Row:
    """`uptime` in seconds, None where it is not told (a fresh start says 0 or -1). `unknown`: no news, not a state."""

    vmid: int
    node: str
    status: Status
    name: str = ""
    tags: frozenset[str] = frozenset()
    template: bool = False
    lock: str | None = None
    uptime: int | None = None
    cpu: float | None = None
    cpus: float | None = None
    memory: int | None = None
    max_memory: int | None = None
    ha: bool = False
    ha_state: str | None = None


def row(data: Any, *, node: str | None = None) -> Row | None:
    """None for what is no container (a virtual machine, an entry of another kind)."""
    if not isinstance(data, Mapping) or data.get("type", "lxc") != "lxc":
        return None
    vmid, where = whole(data.get("vmid")), text(data.get("node")) or node
    if vmid is None or not where:
        return None
    status = text(data.get("status"))
    managed = data.get("ha")
    uptime = whole(data.get("uptime"))
    return Row(
        vmid=vmid,
        node=where,
        status=status if status in ("running", "stopped") else "unknown",  # type: ignore[arg-type]
        name=text(data.get("name")),
        tags=tags_of(data),
        template=whole(data.get("template")) == 1,
        lock=text(data.get("lock")) or None,
        uptime=uptime if uptime and uptime > 0 else None,
        cpu=number(data.get("cpu")),
        cpus=number(data.get("maxcpu", data.get("cpus"))),
        memory=whole(data.get("mem")),
        max_memory=whole(data.get("maxmem")),
        ha=bool(text(data.get("hastate"))) or (isinstance(managed, Mapping) and whole(managed.get("managed")) == 1),
        ha_state=text(data.get("hastate"))
        or (text(managed.get("state")) if isinstance(managed, Mapping) else "")
        or None,
    )


def tags_of(data: Mapping[str, Any]) -> frozenset[str]:
    """Of a row or a config. A file that was edited by hand parts them as people do."""
    return frozenset(tag for tag in _TAGS.split(text(data.get("tags")).lower()) if tag)


def usage(found: Row) -> ResourceUsage:
    """100 % is one core; the server's figure is a share of all that the container may use, and may be a little negative."""
    if found.status != "running" or not found.memory:
        return ResourceUsage()
    cpu = None if found.cpu is None else round(max(0.0, found.cpu) * (found.cpus or 1) * 100, 1)
    return ResourceUsage(cpu_percent=cpu, memory_bytes=found.memory, memory_limit_bytes=found.max_memory or None)


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def whole(value: Any) -> int | None:
    """Numbers come as numbers, or as text (`nextid`, the port of a console)."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.lstrip("-").isdigit():
        return int(value)
    return None


def number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None
