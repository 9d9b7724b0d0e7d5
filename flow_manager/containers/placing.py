"""On which runtime a flow is made, and what becomes of a container that is there already."""

from __future__ import annotations

from dataclasses import replace

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import ContainerConfig
from flow_manager.errors import InvalidRequest, NameConflict
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.runtimes.clustered import Clustered
from flow_manager.util.ids import lxc_flow_id, new_flow_id


def runtime_for(core: Core, config: ContainerConfig) -> Runtime:
    """The one that is named; for a place on Proxmox VE without a name, the one that has this place.

    :raises InvalidRequest: there is none, or more than one: then a name is needed.
    """
    if config.runtime is not None or config.proxmox is None:
        return core.runtime(config.runtime)
    clusters = {name: runtime for name, runtime in core.runtimes.items() if runtime.kind == "proxmox"}
    if not clusters:
        raise _refusal("proxmox", "no runtime of kind proxmox is configured here")
    node = config.proxmox.node
    if node is None or len(clusters) == 1:
        if len(clusters) == 1 or core.default_runtime in clusters:
            return clusters.get(core.default_runtime) or next(iter(clusters.values()))
        raise _refusal("runtime", f"there are several of kind proxmox: {', '.join(sorted(clusters))}")
    nodes = {name: _nodes_of(runtime) for name, runtime in clusters.items()}
    owners = [name for name, names in nodes.items() if node in names]
    if len(owners) == 1:
        return clusters[owners[0]]
    if owners:
        raise _refusal(
            "proxmox.node", f"'{node}' is ambiguous: {' and '.join(sorted(owners))} have it; name the runtime"
        )
    known = ", ".join(sorted({one for names in nodes.values() for one in names}))
    raise _refusal("proxmox.node", f"no node '{node}'; there are: {known}")


def new_id(core: Core, config: ContainerConfig, runtime: Runtime) -> str:
    """A random one for what is yet to be made; that of an existing container is its own.

    :raises NameConflict: that container is a flow already.
    """
    if config.proxmox is not None and config.proxmox.vmid is not None:
        flow_id = lxc_flow_id(runtime.name, config.proxmox.vmid)
        if core.table.get(flow_id) is not None:
            vmid = config.proxmox.vmid
            raise NameConflict(f"the container {vmid} is a flow already", kind=runtime.kind, name=str(vmid))
        return flow_id
    flow_id = new_flow_id()
    while core.table.get(flow_id) is not None:
        flow_id = new_flow_id()
    return flow_id


def take_on(core: Core, entry: FlowEntry, seen: Observation) -> None:
    """An existing container keeps its own name where the client gave none, and is wanted as it was found."""
    core.adoptions.released.pop(entry.id, None)
    name = entry.record.name
    if entry.config.name is None and core.table.named(entry.record.tenant, seen.name) is None:
        name = seen.name
    desired = "running" if seen.running else entry.record.desired
    core.table.discard(entry)
    entry.record = replace(entry.record, name=name, desired=desired)
    core.table.add(entry)


async def let_go(entry: FlowEntry) -> None:
    """The runtime forgets an existing container, which stays as it is."""
    if isinstance(entry.runtime, Clustered):
        await entry.runtime.release(entry.id)


def _nodes_of(runtime: Runtime) -> tuple[str, ...]:
    return runtime.available_node_names if isinstance(runtime, Clustered) else ()


def _refusal(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {reason}", fields=[{"path": path, "reason": reason}])
