"""Messages that wait for one flow, in order and bounded. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flow_manager.channel.handler import Delivery
from flow_manager.errors import FlowManagerError, QueueFull


@dataclass(slots=True, eq=False)
class Letter:
    """One message. `size` in bytes.

    A durable one is in the store as soon as `stored` is done, at `place`; its body is then read from there. One that is not
    durable only waits its turn behind others. `answer` is there while somebody waits for the delivery, or for the reply.
    """

    message_id: str
    size: int
    at: datetime
    durable: bool
    body: dict[str, Any] | None
    stored: asyncio.Future[None]
    wants_reply: bool = False
    place: int | None = None
    answer: asyncio.Future[Delivery] | None = None

    def expect(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Delivery]:
        """The future of its end; who gives it up sets `answer` to None."""
        if self.answer is None:
            self.answer = loop.create_future()
            # Whoever waited may have left: what they would have been told is then nobody's.
            self.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self.answer

    def settle(self, delivery: Delivery) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(delivery)
        self.answer = None

    def fail(self, error: FlowManagerError) -> None:
        """Tell who waits; the message itself may go on waiting."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        self.answer = None


class LetterQueue:
    """First in, first out; at most `max_messages` and `max_bytes`."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._letters: deque[Letter] = deque()
        self._bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[Letter]:
        return iter(list(self._letters))

    def __contains__(self, letter: Letter) -> bool:
        return letter in self._letters

    @property
    def head(self) -> Letter:
        return self._letters[0]

    def find(self, message_id: str) -> Letter | None:
        return next((letter for letter in self._letters if letter.message_id == message_id), None)

    def check_room(self, size: int) -> None:
        """:raises QueueFull: with the limit that is reached."""
        if len(self._letters) >= self._max_messages:
            raise QueueFull(
                f"{len(self._letters)} messages wait for this flow already",
                limit=self._max_messages,
                waiting=len(self._letters),
            )
        if self._letters and self._bytes + size > self._max_bytes:
            raise QueueFull(
                f"{self._bytes} bytes of messages wait for this flow already",
                limit=self._max_bytes,
                waiting_bytes=self._bytes,
            )

    def append(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._bytes += letter.size

    def remove(self, letter: Letter) -> None:
        """One that is not in it is passed over."""
        if letter in self._letters:
            self._letters.remove(letter)
            self._bytes -= letter.size
