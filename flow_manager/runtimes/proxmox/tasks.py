"""Following a task to its end. A 200 only says that it was forked: whether it did anything stands in its exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from flow_manager.errors import OperationTimeout
from flow_manager.runtimes.proxmox.client import PveClient
from flow_manager.runtimes.proxmox.errors import Subject, task_failure, translate
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.upid import Upid, parse_upid

# A look costs the server 5-10 ms; a start takes seconds.
FIRST_LOOK, LONGEST_LOOK, SLOWER = 0.05, 1.0, 1.5
# The last lines tell what went wrong; exit statuses such as "command … failed: exit code 2" do not.
LOG_LINES = 12


def succeeded(status: object) -> bool:
    """`OK`, or `WARNINGS: n`: it was done."""
    return isinstance(status, str) and (status == "OK" or status.startswith("WARNINGS"))


class Tasks:
    """The tasks of one server."""

    def __init__(self, client: PveClient) -> None:
        self._client = client

    def server_time(self) -> float:
        return self._client.server_time()

    async def finish(self, upid: object, subject: Subject, *, within: float) -> None:
        """Wait for it. :raises FlowManagerError: what its end means. :raises OperationTimeout: it goes on."""
        task = _parsed(upid)
        status = await self.ended(task, subject, within=within)
        if status is None:
            raise OperationTimeout(
                f"the server's task {task.type} of {task.id} goes on after {within:g} s",
                operation=subject.operation,
                timeout=within,
            )
        if not succeeded(status):
            raise task_failure(await self._words(task, status), subject)

    async def ended(self, task: Upid, subject: Subject, *, within: float) -> str | None:
        """Its exit status; None when it still runs after `within` seconds. The way there may fail meanwhile."""
        loop = asyncio.get_running_loop()
        deadline, wait = loop.time() + within, FIRST_LOOK
        while True:
            try:
                found = await self._client.get(f"{task.path}/status")
            except CallFailed as failed:
                if not failed.passing or loop.time() >= deadline:
                    raise translate(failed, subject) from None
            else:
                if isinstance(found, Mapping) and found.get("status") == "stopped":
                    return str(found.get("exitstatus") or "it ended without a word")
            left = deadline - loop.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(wait, left))
            wait = min(wait * SLOWER, LONGEST_LOOK)

    async def since(self, node: str, vmid: int, types: tuple[str, ...], at: float) -> list[Upid]:
        """Tasks of these types on that container since `at` (epoch seconds of the server, whole), newest first.

        :raises CallFailed:
        """
        found = await self._client.get(f"nodes/{node}/tasks", vmid=vmid, source="all", limit=50, since=max(0, int(at)))
        parsed = []
        for entry in found if isinstance(found, list) else ():
            try:
                task = parse_upid(entry.get("upid") if isinstance(entry, Mapping) else None)
            except ValueError:
                continue
            if task.type in types and task.started >= int(at):
                parsed.append(task)
        return sorted(parsed, key=lambda task: task.started, reverse=True)

    async def _words(self, task: Upid, status: str) -> str:
        """Its exit status and what its log said last. Best effort: the status alone is enough."""
        try:
            # 0: all of it; a create's log is some dozens of lines.
            log: Any = await self._client.get(f"{task.path}/log", limit=0, within=5.0)
        except CallFailed:
            return status
        lines = [str(line.get("t", "")) for line in log if isinstance(line, Mapping)] if isinstance(log, list) else []
        told = [line for line in lines if line and line != "no content" and not line.startswith("TASK ")]
        return "; ".join([status, *told[-LOG_LINES:]])


def _parsed(upid: object) -> Upid:
    try:
        return parse_upid(upid)
    except ValueError as exc:
        raise translate(CallFailed(0, str(exc))) from None
