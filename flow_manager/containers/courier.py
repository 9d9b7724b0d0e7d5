"""Bringing one flow what waits for it: wake it, wait until it has connected, deliver in order.

A courier is a task that lives while there is something to deliver and hope to deliver it. Without hope (the wake fails again
and again, the flow never acknowledges) it ends, people are told, and the messages stay: the next message or the next
connection begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flow_manager.containers.handover import Handover, Lease, with_details
from flow_manager.containers.letters import Letter, LetterQueue
from flow_manager.containers.rousing import Rousing, reachable
from flow_manager.contract.principal import MANAGER
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    FlowManagerError,
    Internal,
    NotConnected,
    ShuttingDown,
)
from flow_manager.store.base import OutboxStore
from flow_manager.util.backoff import exponential
from flow_manager.util.ids import new_short_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flow_manager.containers.core import Core
    from flow_manager.containers.entry import FlowEntry

# A hello is optional, and comes at once where it comes: it says whether the flow acknowledges. Seconds.
HELLO_WITHIN = 1.0
# Tries in a row without a single message delivered. With the waits between them: half a minute, and two where the flow fails
# each time and is held back for it.
TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0


class Courier:
    """One flow's queue, and the task that empties it."""

    def __init__(
        self,
        core: Core,
        store: OutboxStore,
        entry: FlowEntry,
        queue: LetterQueue,
        *,
        rousing: Rousing,
        use: Callable[[LeaseKind, str], Lease],
        too_old: Callable[[Letter], bool],
        ended: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.rousing = rousing
        self._core = core
        self._entry = entry
        self._use = use
        self._ended = ended
        self._handover = Handover(core, store, entry, queue, use=use, too_old=too_old, ended=ended)
        # Something new to do.
        self._changed = asyncio.Event()
        self._failures = 0
        # People know that its messages were given up for now.
        self._told = False
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def kind(self) -> str:
        return self._entry.runtime.kind

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is under way."""
        return not self.queue and self._task is None and not self._handover.talks

    def go(self, *, fresh: bool = False) -> None:
        """Begin, or look again at once. `fresh`: there is a new message, which deserves all tries.

        A connection alone doesn't: a flow that ends over each first message would be woken for ever.
        """
        self._failures = 0 if fresh else min(self._failures, TRIES - 1)
        self._told = self._told and not fresh
        self._changed.set()
        if self._task is None and self.queue and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"courier-{self._entry.id}")
            self._task.add_done_callback(self._done)

    def look(self) -> None:
        """The flow's status changed: it may have connected, or have ended meanwhile."""
        self.rousing.look()
        if reachable(self._core, self._entry):
            self.go()

    def give_up(self, letter: Letter) -> None:
        """Nobody waits for its answer any more."""
        self._handover.give_up(letter)

    async def close(self, error: FlowManagerError) -> None:
        """End, and tell whoever waits `error`."""
        tasks = self.abandon(error)
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self, error: FlowManagerError) -> list[asyncio.Task[Any]]:
        """The same without waiting; the tasks that are about to end."""
        self._over = True
        tasks: list[asyncio.Task[Any]] = [*([self._task] if self._task else []), *self._handover.talks.values()]
        for task in tasks:
            task.cancel()
        self._tell_who_wait(error)
        return tasks

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        fault: BaseException | None = None
        if not self._over:
            # A cancellation that isn't ours came from within what it waited for.
            fault = RuntimeError("a courier was cut off") if task.cancelled() else task.exception()
        if fault is not None:
            error_id = new_short_id("err")
            self._core.log.log_error(error_id, fault, operation="outbox", container=self._entry.id)
            self._tell_who_wait(Internal("a fault of the manager's own", error_id=error_id))
        elif self._changed.is_set():
            # Something came between its last look and its end.
            self.go()
        self._ended()

    # --- the round ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
        while self.queue:
            self._changed.clear()
            if self._failures == 0:
                waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
            try:
                with self._awake():
                    await self._attempt()
                self._failures = 0
                continue
            except (ShuttingDown, ContainerNotFound):
                return
            except FlowManagerError as error:
                self._failures += 1
                self._core.log.log_debug(
                    "messages wait on", container=self._entry.id, waiting=len(self.queue), reason=error.message
                )
                if self._failures >= TRIES or _stopped_by_somebody(error):
                    self._tell_who_wait(error)
                    self._tell_people(error)
                    # What is set from here on came after this last try.
                    self._changed.clear()
                    return
                rest = self.rousing.rest
                pause = max(next(waits), rest if rest > 0 else _retry_after(error))
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _attempt(self) -> None:
        """Wake the flow if need be, and deliver all. :raises FlowManagerError: why not, with the messages still here."""
        if not reachable(self._core, self._entry):
            await self._bring_up()
        # Before the first frame it is not known whether the flow acknowledges what it gets.
        await self._core.channel.introduced(self._entry.id, HELLO_WITHIN)
        while self.queue:
            letter = self.queue.head
            await self._handover.deliver(letter)
            self._failures, self._told = 0, False
            self.rousing.went_well()

    async def _bring_up(self) -> None:
        """:raises FlowManagerError: why it isn't there, which whoever waits has been told."""
        for letter in self.queue:
            if not letter.durable:
                self.queue.remove(letter)
                letter.fail(NotConnected("the flow's connection ended before its turn came"))
        if not self.queue:
            return
        try:
            await self.rousing.bring_up()
        except FlowManagerError as error:
            # The messages stay; but nobody shall wait out their time-out for a reply that can't come.
            self._tell_who_wait(error)
            raise

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell_who_wait(self, error: FlowManagerError) -> None:
        for letter in self.queue:
            letter.fail(with_details(error, message_id=letter.message_id, queued=letter.durable or None))

    def _tell_people(self, error: FlowManagerError) -> None:
        if self._told:
            return
        self._told = True
        waiting = len(self.queue)
        words = "1 message waits" if waiting == 1 else f"{waiting} messages wait"
        error.hide(self._core.masker)
        self._core.activity.log_user_activity(
            "messages_waiting",
            f"{words} on for flow *{self._entry.record.name}*: {error.message}",
            flow=self._entry.ref,
            actor=MANAGER.name,
            details={"count": waiting, "reason": error.message, "code": error.code, **_exit_code(error)},
        )

    # --- staying awake ------------------------------------------------------------------------------------------------

    @contextmanager
    def _awake(self) -> Iterator[None]:
        lease = self._use("message", "outbox")
        try:
            yield
        finally:
            lease.release()


def _exit_code(error: FlowManagerError) -> dict[str, int]:
    code = error.details.get("exit_code")
    return {"exit_code": code} if isinstance(code, int) else {}


def _stopped_by_somebody(error: FlowManagerError) -> bool:
    return isinstance(error, Conflict) and error.details.get("desired") == "stopped"


def _retry_after(error: FlowManagerError) -> float:
    seconds = error.details.get("retry_after")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
