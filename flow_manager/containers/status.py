"""Pure: a flow's entry as the wire's ContainerInfo and ContainerStatus."""

from __future__ import annotations

from datetime import datetime

from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.policy import image_of
from flow_manager.contract.models import ContainerInfo, ContainerState, ContainerStatus, FlowState, ResourceUsage

_STARTING = frozenset({"start", "restart", "unpause", "create"})
_STOPPING = frozenset({"stop", "kill", "pause", "delete"})


def state_of(entry: FlowEntry) -> ContainerState:
    """The last known state. Before a runtime has answered for the first time, what was wanted stands in for it."""
    if entry.lost:
        return "dead"
    if entry.observation is None:
        return "running" if entry.record.desired == "running" else "stopped"
    return entry.observation.state


def flow_state_of(entry: FlowEntry) -> FlowState:
    if entry.operation in _STOPPING:
        return "stopping"
    if entry.operation in _STARTING:
        return "starting"
    state = state_of(entry)
    if state == "running":
        health = entry.observation.health if entry.observation else "none"
        return {"starting": "starting", "unhealthy": "error"}.get(health, "ready")  # type: ignore[return-value]
    if state == "restarting":
        return "starting"
    failed = entry.record.desired == "running" and entry.observation is not None and bool(entry.observation.exit_code)
    if entry.lost or state == "dead" or (state in ("exited", "stopped") and failed):
        return "error"
    return "napping"


def usage_without_figures(entry: FlowEntry) -> ResourceUsage:
    return ResourceUsage(memory_limit_bytes=entry.config.resources.memory)


def info_of(entry: FlowEntry, socket_path: str | None) -> ContainerInfo:
    observation = entry.observation
    return ContainerInfo(
        id=entry.id,
        name=entry.record.name,
        runtime=entry.record.runtime,
        runtime_id=entry.record.runtime_id,
        status=state_of(entry),
        image=image_of(entry.config),
        created=entry.record.created_at,
        socket_path=socket_path,
        ports=dict(observation.ports) if observation else {},
        addresses=list(observation.addresses) if observation else [],
        hosts=list(entry.config.hosts),
        environment=dict(entry.masked_environment),
        labels=dict(entry.config.labels),
        adopted=entry.record.adopted,
        desired=entry.record.desired,
        idle=entry.config.idle,
    )


def status_of(
    entry: FlowEntry,
    *,
    now: datetime,
    flow_state: FlowState,
    connected: bool,
    last_communication: datetime | None,
    usage: ResourceUsage,
) -> ContainerStatus:
    observation = entry.observation
    state = state_of(entry)
    uptime: float | None = None
    if observation is not None and observation.started_at is not None and state in ("running", "paused"):
        uptime = max(0.0, round((now - observation.started_at).total_seconds(), 3))
    ended = state in ("exited", "stopped", "dead")
    return ContainerStatus(
        id=entry.id,
        name=entry.record.name,
        state=state,
        health=observation.health if observation and state == "running" else "none",
        flow_state=flow_state,
        desired=entry.record.desired,
        uptime=uptime,
        socket_connected=connected,
        last_communication=last_communication,
        resource_usage=usage,
        exit_code=observation.exit_code if observation and ended else None,
        error=entry.problem or (observation.error if observation else None),
        stale=entry.stale,
    )
