"""One operation on a flow: under its lock, logged and timed, a failure told to people too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.errors import FlowManagerError

if TYPE_CHECKING:
    from flow_manager.containers.core import Core
    from flow_manager.containers.entry import FlowEntry

T = TypeVar("T")


async def run_operation(
    core: Core,
    entry: FlowEntry,
    name: str,
    key: Any,
    principal: Principal,
    body: Callable[[], Awaitable[T]],
    *,
    preempt: bool,
) -> tuple[T, ContainerStatus]:
    """What `body` gave, and the status that it left behind, before the next operation could change it.

    `key`: callers with the same name and key share one run; `preempt`: what is under way on the flow is ended first.

    :raises ShuttingDown: when the service is about to end.
    :raises RuntimeUnavailable: as soon as the flow's runtime is known to be away.
    """
    core.refuse_when_closing()

    async def under_lock() -> tuple[T, ContainerStatus]:
        core.still_there(entry)
        started = core.clock.monotonic()
        entry.operation = name
        entry.operations += 1
        entry.seen_during_operation = False
        core.observer.operation_begins(entry, name, principal.name)
        core.tell(entry)
        outcome: str = "done"
        error: FlowManagerError | None = None
        ended: BaseException | None = None
        try:
            result = await core.availability.during(entry.runtime, body)
        except FlowManagerError as failed:
            # An engine's own words can hold a value of the flow's environment.
            failed.hide(core.masker)
            outcome, error = failed.code, failed
            raise
        except asyncio.CancelledError as failed:
            outcome, ended = "ended", failed
            raise
        except BaseException as failed:
            outcome, ended = type(failed).__name__, failed
            raise
        finally:
            entry.operation = None
            core.observer.operation_ended(entry, name, principal.name, error or ended)
            if entry.stopped_outside and not entry.running:
                core.explain_end(entry)
            if error is not None:
                core.activity.log_operation_failed(entry.ref, principal.name, name, error)
            core.log.log_container_operation(
                name,
                entry.id,
                actor=principal.name,
                duration=core.clock.monotonic() - started,
                outcome=outcome,
                error=error,
            )
            if core.table.get(entry.id) is entry:
                core.tell(entry)
                if entry.seen_during_operation or outcome != "done":
                    core.look_again(entry)
        return result, core.status(entry)

    return await core.locks.run(entry.id, name, key, under_lock, preempt=preempt)
