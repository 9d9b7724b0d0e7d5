"""Running a command in a flow."""

from __future__ import annotations

from flow_manager.containers.core import Core
from flow_manager.contract.inside import ExecContainer, ExecResult
from flow_manager.contract.principal import Principal
from flow_manager.errors import Unsupported
from flow_manager.runtimes.inside import Command

# Of each stream, in bytes (wire contract: "capped at 1 MiB each").
OUTPUT_LIMIT = 1024 * 1024


async def exec_container(core: Core, principal: Principal, request: ExecContainer) -> ExecResult:
    """Run it to its end, and wake the flow for it where it sleeps. Takes no lock.

    :raises Unsupported: the runtime can't. :raises ContainerStopped: somebody stopped the flow.
    :raises ExecFailed: it could not be started at all (not found and not executable are exit codes).
    :raises OperationTimeout: `details.left_running` says whether what it started goes on.
    """
    entry = core.table.resolve(principal, request.container_id)
    core.refuse_when_closing()
    runtime = entry.runtime
    if not runtime.capabilities.exec:
        raise Unsupported(f"the runtime '{runtime.name}' runs no commands", kind=runtime.kind, capability="exec")
    lease = core.uses.use(entry, "exec", f"{principal.name}: {request.command[0][:64]}")
    try:
        await core.uses.running(entry, reason=f"{principal.name} runs a command in it")
        outcome = await runtime.exec(
            entry.id,
            Command(tuple(request.command), request.environment, request.working_dir),
            timeout=request.timeout,
            limit=OUTPUT_LIMIT,
        )
    finally:
        lease.release()
    return ExecResult(
        exit_code=outcome.exit_code,
        stdout=outcome.stdout.decode(errors="replace"),
        stderr=outcome.stderr.decode(errors="replace"),
        truncated=outcome.truncated,
    )
