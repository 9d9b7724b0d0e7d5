"""One message on its way to a flow: written, acknowledged, replied to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from flow_manager.channel.deadlines import Deadlines
from flow_manager.errors import FlowManagerError, ReplyTimeout

WRITE = "write"
ACK = "ack"
REPLY = "reply"

_WORDS = {
    WRITE: "the flow did not read what was sent to it",
    ACK: "the flow did not acknowledge the message",
    REPLY: "the flow did not reply",
}


class Pending:
    """Its future ends with the reply (None where none was asked for), or with the error that ended the wait.

    Stages come in this order, and those that are not wanted are left out: `write`, `ack`, `reply`. Each has its own limit,
    and `timeout` is over all of them. It is in `waiting` under its id for as long as its end is open.
    """

    __slots__ = (
        "_ack_timeout", "_deadlines", "_limited", "_needs_reply", "_on_delivered", "_stage_limit", "_timeout", "_waiting",
        "future", "message_id", "stage",
    )  # fmt: skip

    def __init__(
        self,
        message_id: str,
        future: asyncio.Future[Any],
        waiting: dict[str, Pending],
        deadlines: Deadlines,
        needs_reply: bool,
        ack_timeout: float | None,
        timeout: float,
    ) -> None:
        """`ack_timeout`: None where no acknowledgement was promised."""
        self.message_id = message_id
        self.future = future
        self.stage = WRITE
        self._waiting = waiting
        self._deadlines = deadlines
        self._needs_reply = needs_reply
        self._ack_timeout = ack_timeout
        self._timeout = timeout
        self._stage_limit: float | None = None
        self._on_delivered: Callable[[], None] | None = None
        waiting[message_id] = self
        self._limited = deadlines.add(timeout, self)

    def waits_to_be_written(self, seconds: float) -> None:
        self._limit_stage(seconds)

    def written(self) -> None:
        """Its last byte has left us."""
        if self.future.done():
            return
        if self._ack_timeout is not None:
            self.stage = ACK
            self._limit_stage(self._ack_timeout)
        elif self._needs_reply:
            if self._stage_limit is None and self._on_delivered is None:
                self.stage = REPLY
            else:
                self._wait_for_reply()
        else:
            self.finish(None)

    def acknowledged(self) -> None:
        if self._needs_reply:
            self._wait_for_reply()
        else:
            self.finish(None)

    def tell_delivered(self, callback: Callable[[], None]) -> None:
        """Call it once, when the message is delivered and its reply still open."""
        if self.stage == REPLY:
            callback()
        else:
            self._on_delivered = callback

    def finish(self, reply: Any) -> None:
        # As `forget`, by hand: each message comes this way once.
        self._waiting.pop(self.message_id, None)
        if self._stage_limit is not None:
            self._limit_stage(None)
        self._limited.pop(self, None)
        future = self.future
        if not future.done():
            future.set_result(reply)

    def fail(self, error: FlowManagerError) -> None:
        self.forget()
        if not self.future.done():
            self.future.set_exception(error)

    def expired(self, waited: float) -> None:
        self.fail(
            ReplyTimeout(
                f"{_WORDS[self.stage]} within {waited:g} s",
                waited_for=self.stage,
                timeout=waited,
                message_id=self.message_id,
            )
        )

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(self.message_id, None)
        if self._stage_limit is not None:
            self._limit_stage(None)
        self._limited.pop(self, None)

    def _wait_for_reply(self) -> None:
        self.stage = REPLY
        delivered, self._on_delivered = self._on_delivered, None
        if delivered is not None:
            delivered()
        if self._stage_limit is not None:
            self._limit_stage(None)

    def _limit_stage(self, seconds: float | None) -> None:
        if self._stage_limit is not None:
            self._deadlines.discard(self._stage_limit, self)
        # A stage that may take as long as the whole needs no deadline of its own.
        self._stage_limit = seconds if seconds is not None and seconds < self._timeout else None
        if self._stage_limit is not None:
            self._deadlines.add(self._stage_limit, self)
