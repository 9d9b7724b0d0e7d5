"""What can be read of the inside of flows: their logs, and what they use. For the gateway."""

from __future__ import annotations

from collections.abc import Callable

from flow_manager.containers.core import Core
from flow_manager.containers.log_feed import Follower
from flow_manager.containers.logs import LogFeeds, get_logs
from flow_manager.containers.usage import UsageListener, UsageMeter
from flow_manager.contract.inside import FollowLogs, GetLogs, Logs
from flow_manager.contract.models import ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import OneContainer


class Readings:
    """Made with the manager, and closed before its runtimes are. Nothing here wakes a flow or counts as its use."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._feeds = LogFeeds(core)
        self._meter = UsageMeter(core)

    async def close(self) -> None:
        await self._feeds.close()
        await self._meter.close()

    async def get_logs(self, principal: Principal, request: GetLogs) -> Logs:
        """:raises ContainerNotFound, Unsupported, RuntimeUnavailable:"""
        return await get_logs(self._core, principal, request)

    async def follow(self, principal: Principal, request: FollowLogs, make: Callable[[str], Follower]) -> None:
        """:raises ContainerNotFound, Unsupported, RuntimeUnavailable, TooManyStreams, ShuttingDown:"""
        await self._feeds.follow(principal, request, make)

    def leave(self, flow_id: str, follower: Follower) -> None:
        self._feeds.leave(flow_id, follower)

    def status_is_due(self, principal: Principal, request: OneContainer) -> bool:
        """A status should wait a moment for figures. :raises ContainerNotFound:"""
        return self._meter.due(self._core.table.resolve(principal, request.container_id))

    async def status(self, principal: Principal, request: OneContainer) -> ContainerStatus:
        """With figures, where they come in time. :raises ContainerNotFound:"""
        entry = self._core.table.resolve(principal, request.container_id)
        await self._meter.refresh(entry)
        self._core.still_there(entry)
        return self._core.status(entry)

    def follow_usage(self, principal: Principal, request: OneContainer, make: Callable[[str], UsageListener]) -> None:
        """:raises ContainerNotFound:"""
        entry = self._core.table.resolve(principal, request.container_id)
        self._core.refuse_when_closing()
        self._meter.follow(entry, make(entry.id))

    def leave_usage(self, flow_id: str, listener: UsageListener) -> None:
        self._meter.leave(flow_id, listener)
