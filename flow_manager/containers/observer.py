"""Who is told of what happens to flows, so that one table can decide how they are: the watchers' registry."""

from __future__ import annotations

from typing import Protocol

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import FlowState
from flow_manager.runtimes.base import Observation


class FlowObserver(Protocol):
    """Calls are synchronous, quick, and made in the event loop in the order in which things happened."""

    def flow_added(self, entry: FlowEntry) -> None:
        """It exists now: made, or found again at start (then `observation` may be None until the runtime answers)."""
        ...

    def flow_removed(self, entry: FlowEntry) -> None:
        """It is gone for good: deleted or released."""
        ...

    def operation_begins(self, entry: FlowEntry, operation: str, actor: str) -> None:
        """create, start, stop, restart, pause, unpause, kill, delete, wake or sleep now holds the flow's lock."""
        ...

    def operation_ended(self, entry: FlowEntry, operation: str, actor: str, error: BaseException | None) -> None:
        """`error` is None when it did what it should; a CancelledError when another operation pre-empted it."""
        ...

    def flow_observed(
        self, entry: FlowEntry, before: Observation | None, now: Observation | None, cause: str | None
    ) -> None:
        """The runtime said something new. `now` None: its container is gone. `cause` of an end: exit, oom, stop (a person or
        another tool asked for it), or None where nobody knows."""
        ...

    def end_explained(self, entry: FlowEntry) -> None:
        """An end that was seen before its cause was known: somebody asked for it."""
        ...

    def policy_changed(self, entry: FlowEntry) -> None: ...

    def channel_ready(self, entry: FlowEntry) -> None:
        """The flow said `ready` over its channel."""
        ...

    def channel_busy(self, entry: FlowEntry, seconds: float, reason: str | None) -> None: ...

    def channel_idle(self, entry: FlowEntry) -> None: ...

    def runtime_away(self, runtime: str) -> None:
        """It does not answer any more: what becomes of its flows isn't known."""
        ...

    def runtime_back(self, runtime: str) -> None:
        """It answers again; what it says of its flows follows."""
        ...

    def flow_state(self, entry: FlowEntry) -> FlowState | None:
        """What the table says; None for a flow that it doesn't know (yet)."""
        ...


class NoObserver:
    """For a manager without watchers."""

    def flow_added(self, entry: FlowEntry) -> None: ...
    def flow_removed(self, entry: FlowEntry) -> None: ...
    def operation_begins(self, entry: FlowEntry, operation: str, actor: str) -> None: ...
    def operation_ended(self, entry: FlowEntry, operation: str, actor: str, error: BaseException | None) -> None: ...
    def flow_observed(
        self, entry: FlowEntry, before: Observation | None, now: Observation | None, cause: str | None
    ) -> None: ...
    def end_explained(self, entry: FlowEntry) -> None: ...
    def policy_changed(self, entry: FlowEntry) -> None: ...
    def channel_ready(self, entry: FlowEntry) -> None: ...
    def channel_busy(self, entry: FlowEntry, seconds: float, reason: str | None) -> None: ...
    def channel_idle(self, entry: FlowEntry) -> None: ...
    def runtime_away(self, runtime: str) -> None: ...
    def runtime_back(self, runtime: str) -> None: ...

    def flow_state(self, entry: FlowEntry) -> FlowState | None:
        return None
