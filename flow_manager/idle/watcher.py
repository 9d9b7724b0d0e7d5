"""One flow's watcher: its state, who uses it, and what is done about either.

At rest it has no task and no timer of its own: its next deadline is a field, in the one wheel of all. What happens to it is
told by the registry, in order and in the event loop; each call takes one step of the table in `states`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import datetime

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import DesiredState, FlowState, IdlePolicy
from flow_manager.contract.wake import IdleExplanation, LeaseKind
from flow_manager.errors import ContainerNotFound, FlowManagerError, ShuttingDown
from flow_manager.idle import deadlines, demand, explain, failing, hearing, liveness, needs, steps
from flow_manager.idle.attempt import Attempt
from flow_manager.idle.facts import FlowFacts
from flow_manager.idle.history import WakeLog
from flow_manager.idle.keeper import Keeper
from flow_manager.idle.leases import Lease, Leases
from flow_manager.idle.states import Event
from flow_manager.idle.wheel import NEVER
from flow_manager.runtimes.base import Observation

# What a client is told to wait when nothing is known of how long a start takes.
UNKNOWN_START = 5
# The newest start's share in the learned time.
LEARNING_RATE = 0.3


class Watcher(FlowFacts):
    """Read its attributes freely; they are changed by the modules of this package alone."""

    __slots__ = (
        "_changed",
        "_history",
        "attempt",
        "channel_ready",
        "ended",
        "ended_at",
        "expected_start",
        "failed_away",
        "failure",
        "failures",
        "found",
        "gone",
        "keeper",
        "last_ready",
        "last_slept",
        "last_woke",
        "leases",
        "linger_at",
        "needs",
        "probe_at",
        "probe_failures",
        "ready_since",
        "retry_at",
        "run",
        "sleep_at",
        "sleeping",
        "stop_at",
        "stop_failures",
        "stop_force",
        "stop_reason",
        "upstream",
        "waiting_for",
        "wanted_back",
        "wheel_at",
        "wheel_tick",
    )

    def __init__(self, keeper: Keeper, entry: FlowEntry) -> None:
        self.keeper = keeper
        self.entry = entry
        self.state: FlowState = "napping"
        self.leases = Leases(keeper.clock.monotonic, self._freed)
        self.leases.idle_timeout = entry.config.idle.idle_timeout if entry.config.idle else 0.0
        self.attempt: Attempt | None = None
        # Where it is reached while ready.
        self.upstream: tuple[str, int] | None = None
        # Counts runs, and ends of runs: what was found out in an earlier one is worth nothing.
        self.run = 0
        # The flow's `ready` over its channel in this run; made when somebody waits for it or it is said.
        self.channel_ready: asyncio.Event | None = None
        self.waiting_for: str | None = None
        self.expected_start: float | None = None
        self.last_ready: datetime | None = None
        self.ready_since = 0.0
        self.last_slept: tuple[datetime, str] | None = None
        self.last_woke: tuple[datetime, str, float | None] | None = None
        # Failures in a row, and until when traffic is held back for them.
        self.failure: FlowManagerError | None = None
        self.failures = 0
        self.failed_away = False
        self.retry_at = 0.0
        # Stops: why, whether one is under way, failures in a row, when to try again.
        self.stop_reason: str | None = None
        self.sleeping = False
        self.sleep_at = 0.0
        self.stop_failures = 0
        self.stop_force = False
        self.stop_at = NEVER
        # Liveness.
        self.probe_at = NEVER
        self.probe_failures = 0
        # Leases on what it needs, by flow id, and when to let go of them.
        self.needs: dict[str, Lease] | None = None
        self.linger_at = NEVER
        # Found running when the manager started; its container is gone for now; its watcher has ended.
        self.found = False
        self.ended = False
        self.gone = False
        # What somebody wants who did it outside the manager, until the store knows it.
        self.wished: DesiredState | None = None
        # When it last ended by itself; until when its end counts as the engine's doing (see `outage`).
        self.ended_at = -NEVER
        self.wanted_back = 0.0
        self._history: WakeLog | None = None
        self._changed: list[asyncio.Future[None]] | None = None
        self.wheel_at = NEVER
        self.wheel_tick = 0

    def __repr__(self) -> str:
        return f"<Watcher {self.name} {self.state}>"

    @property
    def history(self) -> WakeLog:
        if self._history is None:
            self._history = WakeLog(self.keeper.clock)
        return self._history

    def forget_history(self) -> None:
        """Nobody watched: of ten thousand that are found running, the steps would be most of the memory."""
        if self._history is not None and not self._history.followed:
            self._history = None

    def clear_history(self) -> None:
        if self._history is not None:
            self._history.clear()

    @property
    def error(self) -> str | None:
        return self.failure.message if self.failure is not None and self.state == "error" else None

    @property
    def wake_timeout(self) -> float:
        return (self.policy or IdlePolicy()).wake_timeout

    @property
    def retry_in(self) -> float | None:
        """Seconds for which traffic is still held back; None when it isn't."""
        left = self.retry_at - self.keeper.clock.monotonic()
        return left if self.state == "error" and left > 0 else None

    def retry_after(self) -> int:
        """Seconds after which it is worth coming back, at least 1."""
        held = self.retry_in
        if held is not None:
            return max(1, math.ceil(held))
        expected = UNKNOWN_START if self.expected_start is None else self.expected_start
        if self.attempt is not None:
            expected -= self.keeper.clock.monotonic() - self.attempt.began
        return max(1, math.ceil(expected))

    def explain(self) -> IdleExplanation:
        return explain.explain(self)

    # --- using it -----------------------------------------------------------------------------------------------------

    def ready_now(self) -> bool:
        """Whether a request can be forwarded this very moment."""
        return self.state == "ready" and self.upstream is not None

    def use(self, kind: LeaseKind, holder: str) -> Lease:
        """It stays awake while the lease is held; `holder` tells people by what."""
        self.keeper.mark_used(self.id)
        return self.leases.use(kind, holder)

    async def wake(self, *, reason: str, by_request: bool = True, for_dependent: bool = False) -> None:
        """Return once it is ready. Joins the wake under way; leaving cancels nothing.

        `by_request`: traffic asks, which neither starts what somebody stopped nor shortens a back-off; False: a person.
        `for_dependent`: another flow needs it, which wakes also what has no idle policy.

        :raises Conflict: somebody stopped it (`details.desired`), or does so now. :raises NotAllowed: traffic, no policy.
        :raises WakeTimeout, StartFailed, DependencyFailed, ContainerStopped, RuntimeFailure, ShuttingDown: every waiter
            of the attempt gets the same, with `details.retry_after` in seconds.
        """
        await demand.wake(self, reason, by_request=by_request, for_dependent=for_dependent)

    def begin_wake(self, *, reason: str, by_request: bool = True) -> None:
        """The same without waiting. :raises: what `wake` raises at once."""
        if self.state != "ready":
            self.begin(reason, person=not by_request)

    def begin(self, reason: str, *, person: bool, for_dependent: bool = False) -> Attempt:
        """The attempt under way, or a new one."""
        return demand.begin(self, reason, person=person, for_dependent=for_dependent)

    def refuse_traffic(self, *, for_dependent: bool) -> None:
        """:raises Conflict, NotAllowed: traffic must not wake it. :raises FlowManagerError: the last failure, too fresh."""
        demand.refuse_traffic(self, for_dependent=for_dependent)

    def held_back(self) -> FlowManagerError | None:
        """Why it failed last, with `details.retry_after`, while that is too fresh for another start; else None."""
        return demand.held_back(self)

    # --- what happens to it -------------------------------------------------------------------------------------------

    def operation_begins(self, operation: str, actor: str) -> None:
        hearing.operation_begins(self, operation, actor)

    def stop_begins(self, operation: str) -> None:
        """From here on nothing is forwarded to it, and its waiters hear why; a restart brings it back to them."""
        hearing.stop_begins(self, operation)

    def operation_ended(self, operation: str, error: BaseException | None) -> None:
        hearing.operation_ended(self, operation, error)

    def observed(self, before: Observation | None, now: Observation | None, cause: str | None) -> None:
        """The runtime said something."""
        hearing.observed(self, before, now, cause)

    def end_explained(self) -> None:
        """It ended some other way than we thought: a person stopped it, and that is no failure."""
        hearing.end_explained(self)

    def policy_changed(self) -> None:
        self.leases.idle_timeout = self.policy.idle_timeout if self.policy is not None else 0.0
        if self.awake:
            needs.hold(self)
        liveness.schedule(self)
        self.rearm()

    def said_ready(self) -> None:
        if self.state != "ready":
            if self.channel_ready is None:
                self.channel_ready = asyncio.Event()
            self.channel_ready.set()

    def said_busy(self, seconds: float, reason: str | None) -> None:
        self.leases.busy(seconds, reason)
        self.keeper.mark_used(self.id)

    def said_idle(self) -> None:
        self.leases.idle()
        self.keeper.mark_used(self.id)
        self.rearm()

    def removed(self) -> None:
        """Its flow is deleted, or the manager ends."""
        if self.attempt is not None:
            error: FlowManagerError = ContainerNotFound(self.id, kind=self.entry.runtime.kind)
            if self.keeper.closing:
                error = ShuttingDown("the service is about to end")
            self.give_up(self.attempt, error)
        self.ended = True
        self.upstream = None
        needs.let_go(self)
        self.keeper.wheel.forget(self)
        self.changed()

    # --- steps of the table -------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> bool:
        """One step of the table; whether the state changed."""
        return steps.apply(self, event)

    def fail(self, error: FlowManagerError, event: Event) -> None:
        """It failed: the state says so, traffic is held back for a while, and whoever waits hears it at once."""
        failing.fail(self, error, event)

    def give_up(self, attempt: Attempt, error: FlowManagerError) -> None:
        """End an attempt that nothing is wrong with: something else was wanted."""
        steps.give_up(self, attempt, error)

    def learn(self, took: float) -> None:
        known = self.expected_start
        self.expected_start = took if known is None else known + LEARNING_RATE * (took - known)

    def wish(self, desired: DesiredState) -> None:
        """Somebody did it outside the manager: that is what is wanted from now on."""
        failing.wish(self, desired)

    def waits_for(self, words: str | None) -> None:
        """Say what the wake under way waits for."""
        self.waiting_for = words
        self.changed()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Let those look who wait for something of this flow."""
        waiting, self._changed = self._changed, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate` is true; it is asked whenever something about this flow changed.

        :raises ContainerNotFound: it is gone for good.
        """
        while not predicate():
            if self.ended:
                raise ContainerNotFound(self.id, kind=self.entry.runtime.kind)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._changed is None:
                self._changed = []
            self._changed.append(future)
            await future

    # --- time ---------------------------------------------------------------------------------------------------------

    def _freed(self) -> None:
        """The last request ended."""
        keeper = self.keeper
        keeper.mark_used(self.id)
        if self.state == "ready":
            timeout = self.leases.idle_timeout
            if timeout and self.leases.idle_since + timeout < self.wheel_at:
                self.rearm()

    def sleeps_at(self) -> float | None:
        """When the idle timeout is due, on the monotonic clock; None: it isn't, as things are."""
        return deadlines.sleeps_at(self)

    def rearm(self) -> None:
        """Ask the wheel for the next thing that is due."""
        deadlines.rearm(self)

    def wheel_due(self, now: float) -> None:
        deadlines.due(self, now)
