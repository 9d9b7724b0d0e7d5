"""Giving a flow other code: staged and checked while it runs, and swapped (`code_swap`).

One update a flow at a time, in a task of its own: a client that leaves cancels nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flow_manager.containers.code_swap import Change, apply
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.inside import UpdateContainer
from flow_manager.contract.models import ContainerInfo
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import ChangeContainer
from flow_manager.errors import FlowManagerError, ShuttingDown, Unsupported


class Updates:
    """All flows' updates."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: dict[str, tuple[Any, asyncio.Task[ContainerInfo]]] = {}

    async def close(self) -> None:
        """End what is under way; the next start of a manager takes it back."""
        tasks = [task for _key, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def update(self, principal: Principal, request: UpdateContainer) -> ContainerInfo:
        """Replace the code; restart the flow if it ran, and wait until it is ready.

        :raises PathNotAllowed, InvalidRequest, DiskFull: nothing was touched.
        :raises StartFailed, WakeTimeout, ContainerStopped…: it does not run with the new code; `details.rolled_back` says
            that the old one is back.
        """
        entry = self._changeable(principal, request.container_id)
        source = self._core.policy.code_source(request.code_path)

        async def stage() -> Path:
            return await self._core.code.stage(entry.id, source)

        return await self._one_at_a_time(entry, principal, request.code_path, stage)

    async def rollback(self, principal: Principal, request: ChangeContainer) -> ContainerInfo:
        """Go back to what the last update replaced; a second one goes forward again.

        :raises InvalidRequest: there is nothing to go back to. :raises: what `update` raises.
        """
        entry = self._changeable(principal, request.container_id)

        async def stage() -> Path:
            return await self._core.code.stage_old(entry.id)

        return await self._one_at_a_time(entry, principal, None, stage)

    def _changeable(self, principal: Principal, ref: str) -> FlowEntry:
        entry = self._core.table.resolve(principal, ref)
        self._core.refuse_when_closing()
        runtime = entry.runtime
        if entry.record.adopted:
            raise Unsupported("the code of what others made is theirs", kind=runtime.kind, capability="put_code")
        if not runtime.capabilities.put_code:
            raise Unsupported(
                f"the runtime '{runtime.name}' can't change code", kind=runtime.kind, capability="put_code"
            )
        return entry

    async def _one_at_a_time(
        self, entry: FlowEntry, principal: Principal, code_path: str | None, stage: Callable[[], Awaitable[Path]]
    ) -> ContainerInfo:
        """Join an identical one under way, wait for another to end."""
        while (known := self._tasks.get(entry.id)) is not None:
            key, task = known
            if key != code_path:
                await asyncio.wait([task])
                continue
            return await _result(task)
        task = asyncio.get_running_loop().create_task(
            self._run(entry, principal, code_path, stage), name=f"update-{entry.id}"
        )
        self._tasks[entry.id] = (code_path, task)
        task.add_done_callback(lambda done: self._ended(entry.id, done))
        return await _result(task)

    def _ended(self, flow_id: str, task: asyncio.Task[ContainerInfo]) -> None:
        del self._tasks[flow_id]
        if not task.cancelled():
            task.exception()  # looked at: a caller that left doesn't

    async def _run(
        self, entry: FlowEntry, principal: Principal, code_path: str | None, stage: Callable[[], Awaitable[Path]]
    ) -> ContainerInfo:
        core = self._core
        began = core.clock.monotonic()
        try:
            change = Change(principal, code_path, await stage())
        except FlowManagerError as error:
            core.activity.log_operation_failed(entry.ref, principal.name, "update", error)
            raise
        entry.updating = asyncio.Event()
        # It must not fall asleep before it was seen to work.
        lease = core.uses.use(entry, "exec", f"{principal.name} updates its code")
        try:
            await apply(core, entry, change)
        finally:
            lease.release()
            entry.updating.set()
            entry.updating = None
            if not change.swapped and change.staged.exists():
                await core.carried.through(self._put_away(entry, change))
        if (failed := change.failed) is not None:
            failed.hide(core.masker)
            failed.details["rolled_back"] = True
            await core.noted(
                core.activity.log_container_rolled_back(
                    entry.ref, principal.name, reason=failed.message, code=failed.code, code_path=code_path
                )
            )
            raise failed
        seconds = round(core.clock.monotonic() - began, 3)
        await core.noted(_told_of_success(core, entry, change, seconds))
        core.tell(entry)
        return core.info(entry)

    async def _put_away(self, entry: FlowEntry, change: Change) -> None:
        if change.rollback and self._core.table.get(entry.id) is entry:
            await self._core.code.unstage_old(entry.id, change.staged)
        else:
            await self._core.code.discard(change.staged)


async def _result(task: asyncio.Task[ContainerInfo]) -> ContainerInfo:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise ShuttingDown("the service ended before this was done", operation="update") from None
        raise


def _told_of_success(core: Core, entry: FlowEntry, change: Change, seconds: float) -> asyncio.Future[Any]:
    details: dict[str, Any] = {"code_path": change.code_path, "restarted": change.ran, "seconds": seconds}
    if change.rollback:
        return core.activity.log_container_rolled_back(entry.ref, change.principal.name, **details)
    return core.activity.log_container_updated(entry.ref, change.principal.name, **details)
