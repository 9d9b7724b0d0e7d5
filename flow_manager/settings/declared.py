"""`[[flows]]`: which runtime each one belongs to, and what of them can't be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from flow_manager.settings.models import FlowSettings, Settings

# How a runtime of each kind finds a container that others made.
FOUND_BY = {"docker": "container", "memory": "container", "proxmox": "vmid"}


def flows_of(settings: Settings, runtime: str, default: str) -> tuple[FlowSettings, ...]:
    """Those of one runtime; `default` is the default runtime's name."""
    return tuple(flow for flow in settings.flows if (flow.runtime or default) == runtime)


def contradictions(settings: Settings) -> list[str]:
    """One line a problem, as far as it can be told before it is known which runtimes answer."""
    places = Counter((flow.runtime, flow.place) for flow in settings.flows)
    names = Counter((flow.tenant, flow.name) for flow in settings.flows if flow.name is not None)
    hosts = Counter(host for flow in settings.flows for host in set(flow.hosts))
    return [
        *(f"flows: {place!r} stands there {count} times" for (_, place), count in places.items() if count > 1),
        *(f"flows: the name {name!r} is given {count} times" for (_, name), count in names.items() if count > 1),
        *(f"flows: the host {host!r} is given {count} times" for host, count in hosts.items() if count > 1),
    ]


def misplaced(flows: Iterable[FlowSettings], kinds: Mapping[str, str], default: str) -> list[str]:
    """One line for each whose runtime isn't there or can't find it. `kinds`: the runtimes that there are, by name."""
    lines = []
    for flow in flows:
        runtime = flow.runtime or default
        kind = kinds.get(runtime)
        found_by = FOUND_BY.get(kind or "")
        if kind is None:
            lines.append(f"flows: {flow.place!r}: no runtime {runtime!r}: there are {', '.join(sorted(kinds))}")
        elif found_by is None:
            lines.append(f"flows: {flow.place!r}: a runtime of kind {kind} has no containers that others made")
        elif getattr(flow, found_by) is None:
            lines.append(f"flows: {flow.place!r}: a runtime of kind {kind} finds a container by its {found_by}")
    return lines
