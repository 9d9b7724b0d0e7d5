"""What a container that others made becomes: a name and a ContainerConfig, as if a client had asked for it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from flow_manager.containers.core import Core
from flow_manager.containers.entry import Candidate, FlowEntry, packed
from flow_manager.containers.hosts import host_is_taken
from flow_manager.containers.labels import Unreadable, Wishes
from flow_manager.contract.fields import RESERVED_LABEL_PREFIX, no_control_characters, parse_port_key
from flow_manager.contract.models import ContainerConfig, IdlePolicy
from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.base import Observation, Runtime

# What an image that is no reference is shown as (an engine may know one by its content alone).
NO_IMAGE = "unknown"


@dataclass(frozen=True, slots=True)
class Adopted:
    name: str
    config: ContainerConfig
    unreadable: tuple[Unreadable, ...]


def become(core: Core, runtime: Runtime, seen: Observation, wishes: Wishes, own: FlowEntry | None) -> Adopted:
    """`own`: the flow that it is already, whose name is not taken by another one."""
    name, taken = _free_name(core, wishes, seen, own)
    idle, refused = _accepted(core, runtime, seen, name, wishes)
    hosts, others = _free_hosts(core, wishes, name, own)
    return Adopted(name, _config(runtime, seen, wishes, hosts, idle), (*wishes.unreadable, *taken, *others, *refused))


def stored(config: ContainerConfig) -> str:
    """Without the environment: it is others', may hold their secrets, and the runtime tells it again."""
    return packed(config.model_copy(update={"environment": {}}))


def _free_name(core: Core, wishes: Wishes, seen: Observation, own: FlowEntry | None) -> tuple[str, list[Unreadable]]:
    """The name that it asks for, else its own, else one made of its id: the first that no other flow of the tenant has."""
    taken: list[Unreadable] = []
    for name in (wishes.name, seen.name):
        if not name:
            continue
        holder = core.table.named(wishes.tenant or "", name)
        if holder is None or holder is own:
            return name, taken
        if name == wishes.name:
            taken.append(Unreadable("name", name, f"the flow {holder.id} has this name already"))
    return f"flow-{seen.id}", taken


def _free_hosts(core: Core, wishes: Wishes, name: str, own: FlowEntry | None) -> tuple[list[str], list[Unreadable]]:
    """Those under which no other flow is served; the first that asked for one keeps it."""
    hosts = list(dict.fromkeys(wishes.hosts))
    taken = {host for host in hosts if host_is_taken(core, host, name, own)}
    told = [Unreadable("hosts", host, "another flow is served under it already") for host in hosts if host in taken]
    return [host for host in hosts if host not in taken], told


def _accepted(
    core: Core, runtime: Runtime, seen: Observation, name: str, wishes: Wishes
) -> tuple[IdlePolicy, list[Unreadable]]:
    """The policy as far as the watchers take it: a cycle of dependencies is refused, and what the runtime can't do."""
    refused: list[Unreadable] = []
    candidate = Candidate(seen.id, name, wishes.tenant or "", runtime, seen.labels)
    whole = wishes.idle
    without = whole.model_copy(update={"depends_on": []})
    for policy in (whole, without, IdlePolicy()):
        try:
            core.check_policy(candidate, policy)
        except FlowManagerError as error:
            label = "depends-on" if policy is whole and whole.depends_on else "idle"
            refused.append(Unreadable(label, "", error.message))
        else:
            return policy, refused
    return IdlePolicy(), refused


def _config(runtime: Runtime, seen: Observation, wishes: Wishes, hosts: list[str], idle: IdlePolicy) -> ContainerConfig:
    """Only what is valid there: images and labels of others know no such rules."""
    return ContainerConfig(
        image=seen.image if _is_image(seen.image) else NO_IMAGE,
        ports={key: port for key, port in seen.published.items() if _is_port(key)},
        runtime=runtime.name,
        labels={key: value for key, value in seen.labels.items() if _is_plain(key, value)},
        hosts=hosts,
        port=wishes.port,
        idle=idle,
    ).model_copy(update={"environment": dict(seen.environment)})


def _is_image(image: str) -> bool:
    try:
        ContainerConfig(image=image)
    except ValidationError:
        return False
    return True


def _is_port(key: str) -> bool:
    try:
        parse_port_key(key)
    except ValueError:
        return False
    return True


def _is_plain(label: str, value: str) -> bool:
    try:
        no_control_characters(label)
    except ValueError:
        return False
    return bool(label) and "\x00" not in value and not label.startswith(RESERVED_LABEL_PREFIX)
