"""Running a command in a flow."""

from __future__ import annotations

import asyncio
from functools import partial

from flow_manager.activity.commands import in_one_line, masked_command
from flow_manager.containers.core import SECRETS_LINGER, Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.inside import ExecContainer, ExecResult
from flow_manager.contract.output import fitting
from flow_manager.contract.principal import Principal
from flow_manager.errors import FlowManagerError, Unsupported
from flow_manager.runtimes.inside import Command, ExecOutcome

# Of each stream, in bytes (wire contract: "capped at 1 MiB each").
OUTPUT_LIMIT = 1024 * 1024
# Of a command in an entry's own words; its details have all of it.
SHOWN = 200


async def exec_container(core: Core, principal: Principal, request: ExecContainer) -> ExecResult:
    """Run it to its end, and wake the flow for it where it sleeps. Takes no lock.

    :raises Unsupported: the runtime can't. :raises ContainerStopped: somebody stopped the flow.
    :raises ExecFailed: it could not be started at all (not found and not executable are exit codes).
    :raises OperationTimeout: `details.left_running` says whether what it started goes on.
    :raises TooManyStreams: so many are under way. :raises ShuttingDown:
    """
    entry = core.table.resolve(principal, request.container_id)
    core.refuse_when_closing()
    runtime = entry.runtime
    if not runtime.capabilities.exec:
        raise Unsupported(f"the runtime '{runtime.name}' runs no commands", kind=runtime.kind, capability="exec")
    return await core.execs.run(principal, _exec(core, principal, entry, request))


async def _exec(core: Core, principal: Principal, entry: FlowEntry, request: ExecContainer) -> ExecResult:
    # What it is given may turn up in errors and entries, during the run and in those that tell of its end.
    core.masker.add_environment(request.environment)
    try:
        return await _noted(core, principal, entry, request)
    finally:
        asyncio.get_running_loop().call_later(SECRETS_LINGER, core.masker.remove_environment, dict(request.environment))


async def _noted(core: Core, principal: Principal, entry: FlowEntry, request: ExecContainer) -> ExecResult:
    """Run it, and tell people and operators what came of it."""
    shown = masked_command(request.command, core.masker)
    began = core.clock.monotonic()
    outcome: ExecOutcome | None = None
    error: FlowManagerError | None = None
    told = "ended"
    try:
        outcome = await _run(core, principal, entry, request, shown)
        told = "done"
    except FlowManagerError as failed:
        # An engine's own words can hold a value of the flow's environment.
        failed.hide(core.masker)
        told, error = failed.code, failed
        raise
    finally:
        duration = core.clock.monotonic() - began
        core.log.log_container_operation(
            "exec", entry.id, actor=principal.name, duration=duration, outcome=told, error=error
        )
        storing = core.activity.log_exec(
            entry.ref,
            principal.name,
            in_one_line(shown, SHOWN),
            command=shown,
            exit_code=outcome.exit_code if outcome else None,
            error=error,
            duration=round(duration, 3),
        )
        if outcome is not None:
            await core.noted(storing)
    stdout, stderr, cut = fitting(outcome.stdout, outcome.stderr, truncated=outcome.truncated)
    return ExecResult(exit_code=outcome.exit_code, stdout=stdout, stderr=stderr, truncated=cut)


async def _run(
    core: Core, principal: Principal, entry: FlowEntry, request: ExecContainer, shown: list[str]
) -> ExecOutcome:
    lease = core.uses.use(entry, "exec", f"{principal.name}: {shown[0][:64]}")
    try:
        await core.uses.running(entry, reason=f"{principal.name} runs a command in it")
        core.still_there(entry)
        command = Command(tuple(request.command), request.environment, request.working_dir)
        return await core.availability.during(
            entry.runtime,
            partial(entry.runtime.exec, entry.id, command, timeout=request.timeout, limit=OUTPUT_LIMIT),
        )
    finally:
        lease.release()
