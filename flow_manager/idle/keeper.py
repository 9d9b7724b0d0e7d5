"""What all watchers share: the manager's core, one timer, one prober, and each other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from flow_manager.containers.core import Core
from flow_manager.errors import FlowManagerError
from flow_manager.idle.dependencies import Node, budget
from flow_manager.idle.readiness_target import ProbeTarget
from flow_manager.idle.upstream import Candidate
from flow_manager.idle.wheel import NEVER, Wheel
from flow_manager.util.clock import Clock
from flow_manager.util.ids import new_short_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from flow_manager.idle.watcher import Watcher

# Flows that are found running at start are asked for their readiness, so many at a time.
FOUND_AT_A_TIME = 256
# Seconds. When flows were last used is stored this often, all at once; after a quiet time this soon. A manager that is killed
# is wrong about a flow's last use by no more than this.
FLUSH_INTERVAL, FLUSH_SOON = 10.0, 1.0
# A last use that has moved by less than so many seconds is not written again: clocks are read one after the other.
SAME_USE = timedelta(seconds=0.5)


class WaitsForReadiness(Protocol):
    """`readiness.Prober`, as the watchers see it."""

    async def wait_ready(
        self, target: ProbeTarget, *, deadline: float, told: Callable[[str], None]
    ) -> Candidate | None: ...

    async def alive(self, target: ProbeTarget) -> bool: ...


class Keeper:
    """Owned by the registry."""

    def __init__(self, core: Core, wheel: Wheel, prober: WaitsForReadiness, clock: Clock) -> None:
        self.core = core
        self.wheel = wheel
        self.prober = prober
        self.clock = clock
        self.settings = core.settings.idle
        self.watchers: dict[str, Watcher] = {}
        self.found = asyncio.Semaphore(FOUND_AT_A_TIME)
        # No flow is put to sleep before this moment: the process stood still, and requests wait unread in their sockets.
        self.not_before = 0.0
        self.closing = False
        self._used: set[str] = set()
        self._flushed_at = -NEVER
        self._tasks: set[asyncio.Task[None]] = set()
        # The wheel's: this item is the next flush.
        self.wheel_at = NEVER
        self.wheel_tick = 0

    # --- tasks --------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it to its end, or to the close; what it raises is logged, never lost."""
        task = asyncio.get_running_loop().create_task(self._logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is cancelled before its first step would leave the work unawaited, which Python complains about.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _logged(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except FlowManagerError as error:
            self.core.log.log_debug("a watcher's step failed", step=name, reason=error.message)
        except Exception as error:
            self.core.log.log_error(new_short_id("err"), error, operation=name)

    async def end_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- each other ---------------------------------------------------------------------------------------------------

    def meant(self, watcher: Watcher, ref: str) -> Watcher | None:
        """The watcher of the flow that this one calls `ref`."""
        entry = self.core.meant(watcher.entry, ref)
        return None if entry is None else self.watchers.get(entry.id)

    def node(self, flow_id: str) -> Node | None:
        """A flow as a point of the graph of dependencies, flows that are just being made included."""
        entry = self.core.table.get(flow_id)
        return None if entry is None else Node(entry.id, entry.record.name, entry.config.idle)

    def resolve(self, node: Node, ref: str) -> Node | None:
        here = self.core.table.get(node.id)
        entry = self.core.meant(here, ref) if here is not None else None
        return None if entry is None else Node(entry.id, entry.record.name, entry.config.idle)

    def budget(self, watcher: Watcher) -> float:
        """Seconds that its whole wake may take, everything that it needs included."""
        node = self.node(watcher.id)
        return watcher.wake_timeout if node is None else budget(node, self.resolve)

    # --- when flows were last used ------------------------------------------------------------------------------------

    def mark_used(self, flow_id: str) -> None:
        """Its last use is to be stored; cheap enough for every request."""
        self._used.add(flow_id)
        if self.wheel_at == NEVER:
            self._arm_flush()

    def _arm_flush(self) -> None:
        now = self.clock.monotonic()
        self.wheel.arm(self, max(now + FLUSH_SOON, self._flushed_at + FLUSH_INTERVAL))

    def wheel_due(self, _now: float) -> None:
        if not self.closing:
            self.spawn(self.flush(), "store-last-used")

    def wall(self, moment: float) -> datetime:
        """A moment of the monotonic clock on the wall's."""
        return self.clock.now() - timedelta(seconds=self.clock.monotonic() - moment)

    async def flush(self, *, everything: bool = False) -> None:
        """Store when the marked flows (with `everything` also those that are awake) were last used.

        What is in use now is stored again and again: nobody tells when the process is killed.
        """
        marked, self._used = self._used, set()
        if everything:
            marked |= {watcher.id for watcher in self.watchers.values() if watcher.state == "ready"}
        now = self._flushed_at = self.clock.monotonic()
        times: dict[str, datetime] = {}
        for flow_id in marked:
            watcher = self.watchers.get(flow_id)
            if watcher is None:
                continue
            if watcher.leases.in_use(now):
                self._used.add(flow_id)
            at, known = self.wall(watcher.leases.used_until(now)), watcher.entry.record.last_used_at
            if known is None or abs(at - known) >= SAME_USE:
                times[flow_id] = at
        try:
            if times:
                await self.core.used(times)
        except BaseException:
            self._used |= times.keys()
            raise
        finally:
            if self._used and not self.closing:
                self._arm_flush()
