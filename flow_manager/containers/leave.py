"""The manager's own end: what becomes of the flows of a runtime, in activity and in a line for the operator."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flow_manager.containers.core import Core
from flow_manager.contract.principal import MANAGER
from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.base import Runtime


@runtime_checkable
class EndsWithUs(Protocol):
    """A runtime whose flows don't outlive a service that was told to stop: local processes."""

    async def stop_all(self, grace: float) -> int:
        """End them: the stop signal, then KILL after `grace` seconds; how many ended."""
        ...


async def leave(core: Core, runtime: Runtime, *, grace: float) -> str | None:
    """End what can't go on without us, and say what goes on. From memory: an engine that hangs must not hold the end up."""
    running = [entry for entry in core.table if entry.runtime is runtime and entry.running]
    if not running:
        return None
    if not isinstance(runtime, EndsWithUs):
        return f"{len(running)} flow(s) of the runtime '{runtime.name}' go on"
    for entry in running:
        core.channel.announce_stopping(entry.id, grace)
    stopped = await runtime.stop_all(grace)
    for entry in running:
        try:
            observation = await runtime.inspect(entry.id)
        except FlowManagerError:
            continue
        core.observe(entry, observation)
        if not observation.running:
            core.activity.log_container_stopped(
                entry.ref, MANAGER.name, exit_code=observation.exit_code, reason="the service ends"
            )
    return f"{stopped} flow(s) of the runtime '{runtime.name}' were stopped with the service"
