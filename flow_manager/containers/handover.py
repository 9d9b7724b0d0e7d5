"""Handing one message over to its flow, and the talk that goes on until the flow has replied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flow_manager.channel.handler import Delivery
from flow_manager.containers.letters import Letter, LetterQueue
from flow_manager.contract.requests import MAX_TIMEOUT
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import FlowManagerError, FrameTooLarge, InvalidRequest, NotConnected, ShuttingDown
from flow_manager.store.base import OutboxStore
from flow_manager.util.ids import new_short_id

if TYPE_CHECKING:
    from flow_manager.containers.core import Core
    from flow_manager.containers.entry import FlowEntry

E = TypeVar("E", bound=FlowManagerError)

# Above what writing and acknowledging may take (the channel's own limits are told in its settings). Seconds.
DELIVERY_MARGIN = 1.0
# A reply is waited for at most as long as a client may ask for (contract.requests.MAX_TIMEOUT), and a little.
LONGEST_TALK = MAX_TIMEOUT + 60.0


class Lease(Protocol):
    def release(self) -> None: ...


class Handover:
    """One flow's: its connection stands. `talks` are the messages that were delivered and await their replies."""

    def __init__(
        self,
        core: Core,
        store: OutboxStore,
        entry: FlowEntry,
        queue: LetterQueue,
        *,
        use: Callable[[LeaseKind, str], Lease],
        too_old: Callable[[Letter], bool],
        ended: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.talks: dict[Letter, asyncio.Task[Delivery]] = {}
        self._core = core
        self._store = store
        self._entry = entry
        self._use = use
        self._too_old = too_old
        self._ended = ended

    def give_up(self, letter: Letter) -> None:
        """Nobody waits for its answer any more."""
        letter.answer = None
        talk = self.talks.get(letter)
        if talk is not None and letter not in self.queue:
            talk.cancel()

    async def deliver(self, letter: Letter) -> None:
        """:raises FlowManagerError: it is not delivered, and stays the first."""
        await asyncio.wait([letter.stored])
        if letter not in self.queue:
            return  # it could not be stored, or its sender gave up
        if self._too_old(letter):
            await self._drop(letter)
            return
        body = letter.body if letter.place is None else await self._store.body(letter.place)
        if body is None:
            self.queue.remove(letter)
            return
        try:
            await self._hand_over(letter, body)
        except (FrameTooLarge, InvalidRequest) as error:
            # It fitted when it was taken; with other settings it never will, and would block all behind it.
            self._core.log.log_error(
                new_short_id("err"), error, operation="outbox", container=self._entry.id, message_id=letter.message_id
            )
            letter.fail(error)
            await self._drop(letter)
            return
        self.queue.remove(letter)
        await self._unstore(letter)

    async def _hand_over(self, letter: Letter, body: dict[str, Any]) -> None:
        settings = self._core.settings.channel
        margin = settings.write_timeout + settings.ack_timeout + DELIVERY_MARGIN
        channel = self._core.channel
        if letter.answer is None or not letter.wants_reply:
            delivery = await channel.send_message(self._entry.id, body, timeout=margin, message_id=letter.message_id)
            letter.settle(delivery)
            return
        delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        talk = asyncio.ensure_future(self._talk(letter, body, lambda: delivered.set_result(None)))
        self.talks[letter] = talk
        talk.add_done_callback(lambda _done: self._talk_ended(letter))
        try:
            # Written and acknowledged is enough for the next one's turn; the reply may take its time.
            either: list[asyncio.Future[Any]] = [talk, delivered]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            talk.cancel()
            raise
        if talk.cancelled() and not delivered.done():
            # Its sender gave up when it was out of the queue already (too old, say). Not to be raised as it is: a cancellation
            # would end the courier, and what comes behind this message would lie there until the next one comes.
            raise NotConnected("the message was given up", message_id=letter.message_id)
        if talk.done() and not delivered.done():
            letter.settle(talk.result())
        elif letter.answer is None:
            talk.cancel()
        else:
            talk.add_done_callback(lambda done: _answer(letter, done))

    def _talk_ended(self, letter: Letter) -> None:
        self.talks.pop(letter, None)
        self._ended()

    async def _talk(self, letter: Letter, body: dict[str, Any], delivered: Callable[[], None]) -> Delivery:
        lease = self._use("message", letter.message_id)
        try:
            # Who asked has a time-out of its own, and ends this by it.
            return await self._core.channel.send_message(
                self._entry.id,
                body,
                expect_reply=True,
                timeout=LONGEST_TALK,
                message_id=letter.message_id,
                on_delivered=delivered,
            )
        finally:
            lease.release()

    async def _drop(self, letter: Letter) -> None:
        self.queue.remove(letter)
        await self._unstore(letter)

    async def _unstore(self, letter: Letter) -> None:
        if letter.place is None:
            return
        try:
            await self._store.remove([letter.place])
        except FlowManagerError as error:
            # It was delivered; after a restart it would come twice, which the contract allows.
            self._core.log.log_debug("a delivered message is still stored", reason=error.message)


def _answer(letter: Letter, talk: asyncio.Task[Delivery]) -> None:
    if talk.cancelled():
        letter.fail(ShuttingDown("the service ended before the flow replied", message_id=letter.message_id))
    elif (error := talk.exception()) is None:
        letter.settle(talk.result())
    elif isinstance(error, FlowManagerError):
        letter.fail(with_details(error, message_id=letter.message_id, delivered=True))
    else:
        letter.fail(NotConnected("the flow's reply was lost", message_id=letter.message_id))


def with_details(error: E, **details: Any) -> E:
    """The same error with more details. A copy: one failed wake is raised to everybody who waits for it."""
    kind = type(error)
    copy = kind.__new__(kind)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.details = {**error.details, **{key: value for key, value in details.items() if value is not None}}
    return copy
