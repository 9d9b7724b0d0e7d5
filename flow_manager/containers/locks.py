"""Each flow's lock: one operation at a time, in order of arrival (wire contract, section 3).

An operation runs in a task of its own, so a client that leaves cancels nothing. One that is identical to the one under
way joins it, unless others already wait: `stop`, `start`, `stop` must end stopped. A pre-empting one (kill, forced delete)
does not queue: what is under way is cancelled, and its callers get `conflict`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flow_manager.errors import Conflict, ShuttingDown

T = TypeVar("T")
# Operations that a shutdown ends get this long to clean up after themselves.
CLEAN_UP_GRACE = 1.5


@dataclass(slots=True, eq=False)
class _Operation:
    name: str
    key: Any
    preempting: bool
    task: asyncio.Task[Any] | None = None
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    ended_by: str | None = None


class FlowLock:
    """The lock of one flow. `on_idle` is called whenever nothing is under way and nothing waits any more."""

    def __init__(self, on_idle: Callable[[], None] = lambda: None) -> None:
        self._on_idle = on_idle
        self._current: _Operation | None = None
        self._waiting: deque[_Operation] = deque()

    @property
    def idle(self) -> bool:
        return self._current is None and not self._waiting

    @property
    def operation(self) -> str | None:
        """What is under way."""
        return self._current.name if self._current else None

    async def run(self, name: str, key: Any, body: Callable[[], Awaitable[T]], *, preempt: bool = False) -> T:
        """Run `body` when its turn comes; `key` says what makes two operations identical.

        :raises Conflict: when a pre-empting operation ended it.
        """
        operation = self._joinable(name, key)
        if operation is None:
            operation = _Operation(name, key, preempt)
            operation.task = asyncio.get_running_loop().create_task(self._execute(operation, body), name=f"flow-{name}")
            # Not a `finally` inside the task: one that is cancelled before its first step never enters it, and its lock
            # would be held for ever.
            operation.task.add_done_callback(lambda _done: self._finished(operation))
            # Looked at: a caller that left doesn't, and asyncio would log the failure as one that nobody knows of.
            operation.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            if preempt:
                self._preempt(operation)
            else:
                self._enqueue(operation)
        assert operation.task is not None
        try:
            # Shielded: the caller may leave, what it started goes on.
            result: T = await asyncio.shield(operation.task)
        except asyncio.CancelledError:
            if operation.ended_by == "shutdown":
                raise ShuttingDown("the service ended before this was done", operation=name) from None
            if operation.ended_by is not None:
                raise Conflict(f"{name} was ended by {operation.ended_by}", operation=operation.ended_by) from None
            if operation.task.cancelled() and not _is_cancelled():
                # From within: something that it waited for was cancelled. This caller is not, and must be answered.
                raise Conflict(f"{name} was cut off", operation=name) from None
            raise
        return result

    def cancel_all(self) -> list[asyncio.Task[Any]]:
        """End everything, for the shutdown; the tasks to wait for."""
        operations = [*([self._current] if self._current else []), *self._waiting]
        for operation in operations:
            operation.ended_by = "shutdown"
            if operation.task is not None:
                operation.task.cancel()
        return [operation.task for operation in operations if operation.task is not None]

    def tasks(self) -> list[asyncio.Task[Any]]:
        operations = [*([self._current] if self._current else []), *self._waiting]
        return [operation.task for operation in operations if operation.task is not None]

    def would_join(self, name: str, key: Any) -> bool:
        return self._joinable(name, key) is not None

    def _joinable(self, name: str, key: Any) -> _Operation | None:
        current = self._current
        if current is None or self._waiting or current.ended_by is not None:
            return None
        return current if current.name == name and current.key == key else None

    def _enqueue(self, operation: _Operation) -> None:
        if self._current is None and not self._waiting:
            self._current = operation
            operation.turn.set()
        else:
            self._waiting.append(operation)

    def _preempt(self, operation: _Operation) -> None:
        current = self._current
        if current is None:
            self._enqueue(operation)
            return
        # A forced delete under way is the end of the flow: a kill waits for it instead of reviving the flow.
        self._waiting.appendleft(operation)
        if not current.preempting and current.ended_by is None and current.task is not None:
            current.ended_by = operation.name
            current.task.cancel()

    async def _execute(self, operation: _Operation, body: Callable[[], Awaitable[T]]) -> T:
        await operation.turn.wait()
        return await body()

    def _finished(self, operation: _Operation) -> None:
        if self._current is not operation:
            # Cancelled while it waited.
            if operation in self._waiting:
                self._waiting.remove(operation)
                self._tell_if_idle()
            return
        self._current = self._waiting.popleft() if self._waiting else None
        if self._current is not None:
            self._current.turn.set()
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self.idle:
            self._on_idle()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class FlowLocks:
    """Locks by flow id, made on demand and dropped when idle."""

    def __init__(self) -> None:
        self._locks: dict[str, FlowLock] = {}

    async def run(
        self, flow_id: str, name: str, key: Any, body: Callable[[], Awaitable[T]], *, preempt: bool = False
    ) -> T:
        lock = self._locks.get(flow_id)
        if lock is None:
            lock = self._locks[flow_id] = FlowLock(lambda: self._drop(flow_id))
        return await lock.run(name, key, body, preempt=preempt)

    def _drop(self, flow_id: str) -> None:
        self._locks.pop(flow_id, None)

    def operation(self, flow_id: str) -> str | None:
        lock = self._locks.get(flow_id)
        return lock.operation if lock else None

    def joinable(self, flow_id: str, name: str, key: Any) -> bool:
        """True while an identical operation is under way, and nothing waits behind it."""
        lock = self._locks.get(flow_id)
        return lock is not None and lock.would_join(name, key)

    async def drain(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is under way, end the rest; how many were ended."""
        tasks = [task for lock in self._locks.values() for task in lock.tasks()]
        if not tasks:
            return 0
        _done, pending = await asyncio.wait(tasks, timeout=timeout)
        if pending:
            ending = [task for lock in list(self._locks.values()) for task in lock.cancel_all()]
            if ending:
                await asyncio.wait(ending, timeout=CLEAN_UP_GRACE)
        return len(pending)
