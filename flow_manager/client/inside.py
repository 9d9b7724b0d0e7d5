"""The part of FlowManagerClient that looks into flows: commands, terminals, log lines, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from flow_manager.client.following import Router
from flow_manager.client.logs import LogFollower
from flow_manager.client.terminals import RemoteTerminal, RemoteTerminals
from flow_manager.client.usage import UsageFollower
from flow_manager.client.wire import incoming
from flow_manager.contract.inside import ExecResult, LogLineModel, LogLines, Logs, UsageSample
from flow_manager.contract.requests import MAX_TIMEOUT

# A wake may take its dependencies' time, too; the service ends every event a minute after the longest time-out.
WAKE_TIMEOUT = MAX_TIMEOUT + 75.0
# What a command's own time-out comes on top of: the flow may have to be woken for it, and ended commands take a moment.
EXEC_GRACE = WAKE_TIMEOUT
# An attach may wake the flow first. Input is answered within some seconds, or when the connection is back.
TERMINAL_TIMEOUT = WAKE_TIMEOUT


class LooksInside:
    """Base of FlowManagerClient, which has the rest."""

    _logs: Router[LogLines]
    _usage: Router[UsageSample]
    _terminals: RemoteTerminals

    async def call(self, event: str, request: Mapping[str, Any], *, timeout: float = 0.0) -> Any:
        raise NotImplementedError

    async def exec_container(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        timeout: float = 60.0,
        request_id: str | None = None,
    ) -> ExecResult:
        """Run a command in a flow, to its end. `timeout`: seconds that it may take, then it is ended."""
        request = {
            "container_id": container_id,
            "command": list(command),
            "environment": dict(environment) if environment else None,
            "working_dir": working_dir,
            "timeout": float(timeout),
            "request_id": request_id,
        }
        return incoming(ExecResult, await self.call("exec_container", request, timeout=timeout + EXEC_GRACE))

    async def get_logs(
        self, container_id: str, *, tail: int = 100, since: datetime | float | str | None = None
    ) -> list[LogLineModel]:
        """The last lines, oldest first; of those only what was written at `since` or later."""
        request = {"container_id": container_id, "tail": tail, "since": _moment(since)}
        return incoming(Logs, await self.call("get_logs", request)).lines

    def follow_logs(
        self, container_id: str, *, tail: int = 100, since: datetime | float | str | None = None
    ) -> LogFollower:
        """`async for line in client.follow_logs("reports")`; see `LogFollower`. `aclose` it to stop before its end."""
        return LogFollower(self.call, self._logs, container_id, tail=tail, since=_moment(since))

    def follow_usage(self, container_id: str) -> UsageFollower:
        """`async for sample in client.follow_usage("reports")`; see `UsageFollower`. `aclose` it to stop before its end."""
        return UsageFollower(self.call, self._usage, container_id)

    async def attach_container(
        self,
        container_id: str,
        *,
        target: Literal["shell", "main"] = "shell",
        command: list[str] | None = None,
        cols: int = 80,
        rows: int = 24,
        terminal_id: str | None = None,
        after: int | None = None,
    ) -> RemoteTerminal:
        """Open a terminal in a flow, or join the open one `terminal_id`; see `RemoteTerminal`. It outlives a lost connection."""
        request = {"container_id": container_id, "target": target, "command": command, "cols": cols, "rows": rows}
        return await self._terminals.attach({**request, "terminal_id": terminal_id, "after": after})


def _moment(since: datetime | float | str | None) -> float | str | None:
    return since.timestamp() if isinstance(since, datetime) else since
