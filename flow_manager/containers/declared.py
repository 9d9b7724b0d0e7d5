"""`[[flows]]` of the settings: containers that others made, adopted without a label.

What stands there counts instead of the container's labels, and anew at each start of the manager. The record of such a flow
remembers which entry it came from (`request_key`), so that one that is taken out of the settings is let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.containers.labels import Wishes, read_labels
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.runtimes.docker.identity import is_meant
from flow_manager.settings.declared import flows_of
from flow_manager.settings.models import FlowSettings
from flow_manager.store.base import FlowRecord

if TYPE_CHECKING:
    from flow_manager.containers.core import Core

# No principal's name has a bracket, so that no client's `request_id` can look like it.
_KEY = "[[flows]] "


def declared_of(core: Core, runtime: Runtime) -> tuple[FlowSettings, ...]:
    return flows_of(core.settings, runtime.name, core.default_runtime)


def declared_for(core: Core, runtime: Runtime, seen: Observation) -> FlowSettings | None:
    """The entry of the settings that means this container."""
    return next((flow for flow in declared_of(core, runtime) if _means(flow, seen)), None)


def wishes_for(core: Core, runtime: Runtime, seen: Observation) -> Wishes:
    """What is asked for it: in the settings, else by its labels."""
    flow = declared_for(core, runtime, seen)
    if flow is None:
        return read_labels(seen.labels)
    return Wishes(flow.name, list(flow.hosts), flow.port, flow.tenant, flow.idle, ())


def key_for(core: Core, runtime: Runtime, seen: Observation) -> str | None:
    """What its record remembers of the entry."""
    flow = declared_for(core, runtime, seen)
    return None if flow is None else f"{_KEY}{flow.place}"


def came_from_settings(record: FlowRecord) -> bool:
    return record.request_key is not None and record.request_key.startswith(_KEY)


def still_declared(core: Core, runtime: Runtime, record: FlowRecord) -> bool:
    """Whether the entry that it came from is in the settings still."""
    return record.request_key in {f"{_KEY}{flow.place}" for flow in declared_of(core, runtime)}


def missing(core: Core, runtime: Runtime, found: list[Observation]) -> list[FlowSettings]:
    """Entries that mean no container that the runtime has."""
    return [flow for flow in declared_of(core, runtime) if not any(_means(flow, seen) for seen in found)]


def _means(flow: FlowSettings, seen: Observation) -> bool:
    if not seen.adopted:
        return False
    if flow.container is not None:
        return is_meant(flow.container, seen.name, seen.runtime_id or "")
    # `<runtime>/<vmid>` or the bare number; it is one cluster's, so the node is only where to look first.
    return (seen.runtime_id or "").rpartition("/")[2] == str(flow.vmid)
