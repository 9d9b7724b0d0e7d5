"""What the slow path has at hand: settings, clocks, whom to ask, and how many requests wait."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flow_manager.contract.models import DesiredState, IdlePolicy
from flow_manager.contract.wake import WakeEvent
from flow_manager.errors import FlowManagerError
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.loading import LoadingPage
from flow_manager.proxy.watched import WatchedFlow
from flow_manager.settings.models import ProxySettings
from flow_manager.util.clock import Clock

# Of a failed flow's log; more is what `flow-manager logs` is for.
LOG_LINES = 20
# Seconds that a page waits for them: an engine that hangs must not keep the reason of a failure from its reader.
LOG_TIMEOUT = 3.0

LogTail = Callable[[str], Sequence[str] | Awaitable[Sequence[str]]]


class WakeLog(Protocol):
    """`idle.history.WakeLog`, as the page needs it."""

    def entries(self) -> Sequence[WakeEvent]: ...

    def subscribe(self, callback: Callable[[WakeEvent], None]) -> Callable[[], None]:
        """The callable that ends it is given back."""
        ...


class WakingFlow(WatchedFlow, Protocol):
    """`idle.watcher.Watcher`, as the slow path sees it."""

    @property
    def policy(self) -> IdlePolicy | None: ...
    @property
    def desired(self) -> DesiredState: ...
    @property
    def expected_start(self) -> float | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def failure(self) -> FlowManagerError | None:
        """The last one, also while it is tried again."""
        ...

    @property
    def history(self) -> WakeLog: ...

    async def wake(self, *, reason: str, by_request: bool = True) -> None: ...
    def begin_wake(self, *, reason: str) -> None: ...


class TooManyHeld(Exception):
    """No room for another waiting request; `limit` is the setting that says so."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


@dataclass(slots=True)
class HeldCount:
    """How many requests wait, for each flow and in all."""

    per_flow: int
    in_all: int
    total: int = 0
    _flows: dict[str, int] = field(default_factory=dict)

    def of(self, flow_id: str) -> int:
        return self._flows.get(flow_id, 0)

    @contextmanager
    def one_more(self, flow_id: str) -> Iterator[None]:
        """:raises TooManyHeld: at once, nothing counted."""
        waiting = self._flows.get(flow_id, 0)
        if waiting >= self.per_flow:
            raise TooManyHeld("held_per_flow")
        if self.total >= self.in_all:
            raise TooManyHeld("held")
        self._flows[flow_id] = waiting + 1
        self.total += 1
        try:
            yield
        finally:
            self.total -= 1
            left = self._flows[flow_id] - 1
            if left:
                self._flows[flow_id] = left
            else:
                del self._flows[flow_id]


@dataclass(frozen=True, slots=True)
class SlowContext:
    """`find`: the flow's watcher by its id, None when it is gone (`registry.watcher`). `logs`: its last log lines, secrets
    masked, as a list or as something that gives one when awaited. `open_mode`: no tokens, loopback alone."""

    settings: ProxySettings
    clock: Clock
    log: SystemLogger
    find: Callable[[str], object | None]
    held: HeldCount
    page: LoadingPage
    open_mode: bool = False
    logs: LogTail | None = None

    @classmethod
    def make(
        cls,
        settings: ProxySettings,
        *,
        clock: Clock,
        log: SystemLogger,
        find: Callable[[str], object | None],
        open_mode: bool = False,
        logs: LogTail | None = None,
    ) -> SlowContext:
        """With the package's page and no request waiting yet."""
        held = HeldCount(settings.held_per_flow, settings.held)
        return cls(settings, clock, log, find, held, LoadingPage.load(), open_mode, logs)

    @property
    def frank(self) -> bool:
        """Whether who asks may read what operators read: a failure in the runtime's own words, and the flow's log."""
        chosen = self.settings.show_logs
        return self.open_mode if chosen is None else chosen

    @property
    def shows_logs(self) -> bool:
        return self.logs is not None and self.frank

    def is_gone(self, flow: WatchedFlow) -> bool:
        """Whether it was deleted since: then another flow may have its name, but never its watcher."""
        return self.find(flow.id) is not flow

    async def log_lines(self, flow: WatchedFlow) -> list[str]:
        """The last of them; none where it isn't allowed or they can't be read."""
        if not self.shows_logs or self.logs is None:
            return []
        try:
            async with asyncio.timeout(LOG_TIMEOUT):
                found = self.logs(flow.id)
                lines = await found if inspect.isawaitable(found) else found
        except Exception as exc:
            self.log.log_debug("a flow's log could not be read for its page", flow=flow.id, error=repr(exc))
            return []
        return list(lines)[-LOG_LINES:]
