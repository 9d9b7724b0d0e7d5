"""Using a flow from inside: a command or a terminal keeps it awake, and wakes one that sleeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.status import state_of
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import Conflict, ContainerStopped, NotAllowed


class Lease(Protocol):
    """`release` it exactly when the use ends. `touch` one of a terminal at each sign of life."""

    def release(self) -> None: ...

    def touch(self) -> None: ...


class Wakeable(Protocol):
    """What a flow's watcher does for those who use it."""

    def use(self, kind: LeaseKind, holder: str) -> Lease: ...

    async def wake(self, *, reason: str, by_request: bool = True) -> None: ...


class Uses:
    """`watcher(flow_id)` gives who keeps a flow awake and wakes it; None for a manager without watchers."""

    def __init__(self, watcher: Callable[[str], Wakeable | None] = lambda _id: None) -> None:
        self._watcher = watcher

    def use(self, entry: FlowEntry, kind: LeaseKind, holder: str) -> Lease:
        """Keep it awake until the lease is released."""
        watcher = self._watcher(entry.id)
        return watcher.use(kind, holder) if watcher is not None else _NO_LEASE

    async def running(self, entry: FlowEntry, *, reason: str) -> None:
        """Return once it runs: at once where it does, after its wake where it sleeps. Hold a lease meanwhile.

        One that runs and isn't ready yet (or any more) is not waited for: that is when people look inside.

        :raises ContainerStopped: somebody stopped it, or nothing may wake it.
        :raises WakeTimeout, StartFailed, DependencyFailed, RuntimeFailure, ShuttingDown: why it did not wake.
        """
        if state_of(entry) == "running":
            return
        watcher = self._watcher(entry.id)
        if watcher is None:
            raise ContainerStopped(f"the flow is {state_of(entry)}", state=state_of(entry))
        try:
            await watcher.wake(reason=reason)
        except (Conflict, NotAllowed) as error:
            raise ContainerStopped(
                f"the flow is {state_of(entry)}: {error.message}", state=state_of(entry), desired=entry.record.desired
            ) from None


class _NoLease:
    def release(self) -> None: ...

    def touch(self) -> None: ...


_NO_LEASE = _NoLease()
