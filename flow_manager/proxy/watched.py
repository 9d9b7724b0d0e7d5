"""What the proxy needs of a flow's watcher and of the registry: no more, so that its tests can do without the real ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from flow_manager.contract.models import FlowState, IdlePolicy
from flow_manager.contract.wake import LeaseKind


class Use(Protocol):
    """A lease: the flow stays awake while it is held."""

    def release(self) -> None:
        """Idempotent."""
        ...

    def touch(self) -> None: ...


class WatchedFlow(Protocol):
    """`idle.watcher.Watcher`, as the proxy sees it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def state(self) -> FlowState: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...
    @property
    def policy(self) -> IdlePolicy | None: ...
    @property
    def upstream(self) -> tuple[str, int] | None: ...
    @property
    def last_ready(self) -> datetime | None: ...

    def use(self, kind: LeaseKind, holder: str) -> Use: ...
    def ready_now(self) -> bool: ...
    def retry_after(self) -> int: ...


class FlowTable(Protocol):
    """`idle.registry.IdleRegistry`, as routing sees it."""

    @property
    def generation(self) -> int:
        """Changes whenever a flow comes, goes or changes its names."""
        ...

    def watchers(self) -> Iterable[WatchedFlow]: ...
    def watcher(self, flow_id: str) -> WatchedFlow | None: ...
