"""What the gateway needs of those who read flows' logs and measure what they use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from flow_manager.contract.inside import FollowLogs, GetLogs, Logs
from flow_manager.contract.models import ContainerStatus, ResourceUsage
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import OneContainer
from flow_manager.errors import FlowManagerError, UnknownEvent


class Batch(Protocol):
    """Lines as JSON objects, and the bytes that they take."""

    @property
    def items(self) -> tuple[bytes, ...]: ...
    @property
    def size(self) -> int: ...


class LogFollower(Protocol):
    """Who gets lines: synchronous and quick."""

    @property
    def full(self) -> bool: ...
    def take(self, batch: Batch) -> None: ...
    def lose(self, count: int) -> None: ...
    def end(self, code: str) -> None: ...


class UsageFollower(Protocol):
    def sampled(self, usage: ResourceUsage, at: datetime) -> None: ...
    def end(self, code: str) -> None: ...


class Reader(Protocol):
    """`make(flow's id)` makes who is told from then on, until it leaves."""

    async def get_logs(self, principal: Principal, request: GetLogs) -> Logs: ...

    async def follow(self, principal: Principal, request: FollowLogs, make: Callable[[str], LogFollower]) -> None: ...

    def leave(self, flow_id: str, follower: LogFollower) -> None: ...

    def status_is_due(self, principal: Principal, request: OneContainer) -> bool: ...

    async def status(self, principal: Principal, request: OneContainer) -> ContainerStatus: ...

    def follow_usage(
        self, principal: Principal, request: OneContainer, make: Callable[[str], UsageFollower]
    ) -> None: ...

    def leave_usage(self, flow_id: str, listener: UsageFollower) -> None: ...


class NoReader:
    """Of a service without: these events don't exist there, and a status has what is in memory."""

    async def get_logs(self, principal: Principal, request: GetLogs) -> Logs:
        raise _none("get_logs")

    async def follow(self, principal: Principal, request: FollowLogs, make: Callable[[str], LogFollower]) -> None:
        raise _none("follow_logs")

    def leave(self, flow_id: str, follower: LogFollower) -> None: ...

    def status_is_due(self, principal: Principal, request: OneContainer) -> bool:
        return False

    async def status(self, principal: Principal, request: OneContainer) -> ContainerStatus:
        raise _none("get_status")

    def follow_usage(self, principal: Principal, request: OneContainer, make: Callable[[str], UsageFollower]) -> None:
        raise _none("follow_usage")

    def leave_usage(self, flow_id: str, listener: UsageFollower) -> None: ...


def _none(event: str) -> FlowManagerError:
    return UnknownEvent(f"this service does not look into flows: there is no event '{event}'", event=event)
