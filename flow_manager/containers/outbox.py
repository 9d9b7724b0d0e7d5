"""The outbox: messages for flows that are away, kept in the store, in order, until they are delivered or too old.

A message is stored before the flow is woken for it, and removed after it was delivered: whatever ends in between (the flow,
the manager, the machine), it comes at least once, with the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flow_manager.channel.handler import KEPT_PREFIX, Delivery
from flow_manager.containers.courier import Courier
from flow_manager.containers.handover import Lease
from flow_manager.containers.letters import Letter, LetterQueue
from flow_manager.containers.repeats import request_key
from flow_manager.containers.rousing import Rousing, Watched, reachable
from flow_manager.containers.sleep import wake_now
from flow_manager.contract.models import ContainerStatus, MessageDelivery
from flow_manager.contract.principal import MANAGER, Principal
from flow_manager.contract.requests import SendMessage
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import ContainerNotFound, FlowManagerError, Internal, ReplyTimeout, ShuttingDown
from flow_manager.store.base import OutboxStore, StoredMessage
from flow_manager.util.strict_json import dumps_bytes

if TYPE_CHECKING:
    from flow_manager.containers.core import Core
    from flow_manager.containers.entry import FlowEntry

# How often messages are looked through for those that are too old, in seconds; only while any wait.
SWEEP_EVERY = 60.0
REASON = "a message waits for it"


class Outbox:
    """All flows' queues. To be opened after the flows were recovered; `watcher(flow_id)` gives who wakes a flow."""

    def __init__(self, core: Core, store: OutboxStore, watcher: Callable[[str], Watched | None]) -> None:
        self._core = core
        self._store = store
        self._watcher = watcher
        self._couriers: dict[str, Courier] = {}
        self._leaving: set[asyncio.Task[Any]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Take up what a former manager left: flows that are wanted are woken for it."""
        await self._store.prune(older_than=self._core.now() - self._keep)
        for stored in await self._store.waiting():
            entry = self._core.table.get(stored.flow_id)
            # A flow whose runtime isn't configured now: its messages wait for the day it is again.
            if entry is not None:
                self._courier(entry).queue.append(_letter_of(stored))
        self._core.status_listeners.append(self._on_status)
        for flow_id, courier in list(self._couriers.items()):
            entry = self._core.table.get(flow_id)
            if entry is not None and (entry.record.desired == "running" or reachable(self._core, entry)):
                courier.go()
        self._watch_age()

    async def close(self) -> None:
        """What waits stays in the store; who waits is told."""
        self._closed = True
        if self._on_status in self._core.status_listeners:
            self._core.status_listeners.remove(self._on_status)
        if self._sweep is not None:
            self._sweep.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        error = ShuttingDown("the service ended before the message was delivered")
        for courier in list(self._couriers.values()):
            await courier.close(error)
        if self._leaving:
            await asyncio.gather(*self._leaving, return_exceptions=True)
        self._couriers.clear()

    # --- for the sender -----------------------------------------------------------------------------------------------

    def waiting(self, flow_id: str) -> int:
        """How many messages wait for this flow. Whatever is sent while there are any goes behind them."""
        courier = self._couriers.get(flow_id)
        return len(courier.queue) if courier is not None else 0

    def use(self, flow_id: str, holder: str) -> Lease:
        """Keep the flow awake while it is being talked to."""
        watcher = self._watcher(flow_id)
        return watcher.use("message", holder) if watcher is not None else _NO_LEASE

    def message_id(self, principal: Principal, request: SendMessage, flow_id: str) -> str:
        """A repeated request is the same message: it has the same id, also after a time-out."""
        if request.request_id is None:
            return KEPT_PREFIX + secrets.token_hex(12)
        what = "\x00".join((request_key(principal, request.request_id), flow_id)).encode()
        return KEPT_PREFIX + hashlib.sha256(what + b"\x00" + dumps_bytes(request.message)).hexdigest()[:24]

    async def send(self, entry: FlowEntry, request: SendMessage, message_id: str, timeout: float) -> MessageDelivery:
        """Take a message that can't be delivered right now. `timeout`: seconds for the delivery, and the reply to it.

        With `request.wake` it is stored, the flow is woken, and the answer is `queued`, unless a reply is expected; without
        it the message waits its turn behind the others.

        :raises QueueFull: too much waits already. :raises FrameTooLarge, InvalidRequest:
        :raises ReplyTimeout: `details.queued` says whether it still waits.
        :raises FlowManagerError: why the flow does not wake; `details.queued`: the message waits all the same.
        """
        courier = self._courier(entry)
        letter = courier.queue.find(message_id)
        known = letter is not None
        if letter is None:
            try:
                letter = self._new_letter(courier.queue, request, message_id)
            finally:
                self._drop_if_done(entry.id)
        answer: asyncio.Future[Delivery] | None = None
        if not letter.durable or request.expect_reply:
            letter.wants_reply = letter.wants_reply or request.expect_reply
            answer = letter.expect(asyncio.get_running_loop())
        if not known:
            await self._put(entry, courier, letter, request.message)
        elif not letter.stored.done():
            await asyncio.wait([letter.stored])
        courier.rousing.asked = courier.rousing.asked or request.wake
        courier.go(fresh=True)
        self._watch_age()
        if answer is None:
            return MessageDelivery(message_id=message_id, delivered=False, queued=True)
        return await self._answer(courier, letter, answer, timeout)

    def _new_letter(self, queue: LetterQueue, request: SendMessage, message_id: str) -> Letter:
        size = len(self._core.channel.frame_of(message_id, request.message))
        queue.check_room(size)
        stored = asyncio.get_running_loop().create_future()
        letter = Letter(message_id, size, self._core.now(), request.wake, request.message, stored)
        # Before it is stored: the order is that in which the calls came.
        queue.append(letter)
        if not letter.durable:
            stored.set_result(None)
        return letter

    async def _put(self, entry: FlowEntry, courier: Courier, letter: Letter, body: dict[str, Any]) -> None:
        if not letter.durable:
            return
        try:
            stored = await self._store.put(entry.id, letter.message_id, body, size=letter.size, at=letter.at)
        except BaseException:
            courier.queue.remove(letter)
            letter.fail(Internal("the message could not be stored"))
            self._drop_if_done(entry.id)
            raise
        else:
            # From here on the store has it: thousands of bodies need not be in memory too.
            letter.place, letter.body = stored.place, None
            if letter not in courier.queue:  # its flow was deleted meanwhile
                await self._store.remove([stored.place])
                raise ContainerNotFound(entry.id, kind=entry.runtime.kind)
        finally:
            if not letter.stored.done():
                letter.stored.set_result(None)

    async def _answer(
        self, courier: Courier, letter: Letter, answer: asyncio.Future[Delivery], timeout: float
    ) -> MessageDelivery:
        try:
            async with asyncio.timeout(timeout):
                delivery: Delivery = await asyncio.shield(answer)
        except TimeoutError:
            still_here = letter in courier.queue
            if still_here and not letter.durable:
                courier.queue.remove(letter)
            waited_for = "delivery" if still_here else "reply"
            raise ReplyTimeout(
                f"no {waited_for} within {timeout:g} s"
                + ("; the message still waits" * (still_here and letter.durable)),
                waited_for=waited_for,
                timeout=timeout,
                message_id=letter.message_id,
                queued=still_here and letter.durable,
            ) from None
        finally:
            if letter.answer is answer and not answer.done():
                courier.give_up(letter)
        told = {"reply": delivery.reply} if delivery.replied else {}
        return MessageDelivery(message_id=letter.message_id, delivered=delivery.delivered, queued=False, **told)

    # --- what happens to flows ----------------------------------------------------------------------------------------

    def forget(self, flow_id: str) -> None:
        """The flow is gone for good; the store has removed its messages with it."""
        courier = self._couriers.pop(flow_id, None)
        if courier is None:
            return
        error = ContainerNotFound(flow_id, kind=courier.kind)
        for task in courier.abandon(error):
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        for letter in courier.queue:
            courier.queue.remove(letter)

    def _on_status(self, _tenant: str, status: ContainerStatus) -> None:
        courier = self._couriers.get(status.id)
        if courier is not None:
            courier.look()

    # --- age ----------------------------------------------------------------------------------------------------------

    @property
    def _keep(self) -> timedelta:
        return timedelta(seconds=self._core.settings.idle.outbox_keep)

    def _too_old(self, letter: Letter) -> bool:
        return letter.durable and self._core.now() - letter.at > self._keep

    def _watch_age(self) -> None:
        if self._sweep is None and self._couriers and not self._closed:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY, self._sweep_soon)

    def _sweep_soon(self) -> None:
        self._sweep = None
        self._sweeping = asyncio.get_running_loop().create_task(self.expire(), name="outbox-age")

    async def expire(self) -> None:
        """Remove what has waited longer than the setting `idle.outbox_keep`, and tell people of it."""
        for flow_id, courier in list(self._couriers.items()):
            old = [letter for letter in courier.queue if self._too_old(letter) and letter.place is not None]
            if not old:
                continue
            for letter in old:
                courier.queue.remove(letter)
            self._tell_of_old(flow_id, len(old))
            self._drop_if_done(flow_id)
        try:
            await self._store.prune(older_than=self._core.now() - self._keep)
        except FlowManagerError as error:
            self._core.log.log_debug("old messages could not be removed", reason=error.message)
        self._watch_age()

    def _tell_of_old(self, flow_id: str, count: int) -> None:
        entry = self._core.table.get(flow_id)
        if entry is None:
            return
        words = "1 message" if count == 1 else f"{count} messages"
        self._core.activity.log_user_activity(
            "messages_expired",
            f"{words} for flow *{entry.record.name}* waited too long and went unread",
            flow=entry.ref,
            actor=MANAGER.name,
            details={"count": count, "kept_for": self._core.settings.idle.outbox_keep},
        )

    # --- the queues ---------------------------------------------------------------------------------------------------

    def _courier(self, entry: FlowEntry) -> Courier:
        courier = self._couriers.get(entry.id)
        if courier is None:
            settings = self._core.settings
            queue = LetterQueue(settings.idle.outbox_messages, settings.channel.outbox)

            async def wake(by_request: bool) -> None:
                await self._wake(entry, by_request)

            def held_back() -> FlowManagerError | None:
                watcher = self._watcher(entry.id)
                return watcher.held_back() if watcher is not None else None

            def use(kind: LeaseKind, holder: str) -> Lease:
                return self.use(entry.id, holder)

            courier = self._couriers[entry.id] = Courier(
                self._core,
                self._store,
                entry,
                queue,
                rousing=Rousing(self._core, entry, wake=wake, held_back=held_back),
                use=use,
                too_old=self._too_old,
                ended=lambda: self._drop_if_done(entry.id),
            )
        return courier

    def _drop_if_done(self, flow_id: str) -> None:
        courier = self._couriers.get(flow_id)
        if courier is not None and courier.idle:
            del self._couriers[flow_id]

    async def _wake(self, entry: FlowEntry, by_request: bool) -> None:
        watcher = self._watcher(entry.id)
        if watcher is not None:
            await watcher.wake(reason=REASON, by_request=by_request)
        else:
            await wake_now(self._core, MANAGER, entry, clear_stopped=not by_request)


class _NoLease:
    def release(self) -> None: ...


_NO_LEASE = _NoLease()


def _letter_of(stored: StoredMessage) -> Letter:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return Letter(stored.message_id, stored.size, stored.created_at, True, None, done, place=stored.place)
