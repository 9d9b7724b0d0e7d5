"""One message on its way to a flow: written, acknowledged, replied to."""

from __future__ import annotations

import asyncio
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
    and `timeout` is over all of them.
    """

    __slots__ = (
        "_ack_timeout", "_deadlines", "_needs_ack", "_needs_reply", "_stage_limit", "_timeout", "future", "message_id",
        "stage",
    )  # fmt: skip

    def __init__(
        self,
        message_id: str,
        future: asyncio.Future[Any],
        deadlines: Deadlines,
        *,
        needs_ack: bool,
        needs_reply: bool,
        ack_timeout: float,
        timeout: float,
    ) -> None:
        self.message_id = message_id
        self.future = future
        self.stage = WRITE
        self._deadlines = deadlines
        self._needs_ack = needs_ack
        self._needs_reply = needs_reply
        self._ack_timeout = ack_timeout
        self._timeout = timeout
        self._stage_limit: float | None = None
        deadlines.add(timeout, self)

    def waits_to_be_written(self, seconds: float) -> None:
        self._limit_stage(seconds)

    def written(self) -> None:
        """Its last byte has left us."""
        if self.future.done():
            return
        if self._needs_ack:
            self.stage = ACK
            self._limit_stage(self._ack_timeout)
        elif self._needs_reply:
            self.stage = REPLY
            self._limit_stage(None)
        else:
            self.finish(None)

    def acknowledged(self) -> None:
        if self.future.done():
            return
        if not self._needs_reply:
            self.finish(None)
        elif self.stage != REPLY:
            self.stage = REPLY
            self._limit_stage(None)

    def finish(self, reply: Any) -> None:
        self.forget()
        if not self.future.done():
            self.future.set_result(reply)

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
        self._limit_stage(None)
        self._deadlines.discard(self._timeout, self)

    def _limit_stage(self, seconds: float | None) -> None:
        # A stage that may take as long as the whole needs no deadline of its own.
        if self._stage_limit is not None:
            self._deadlines.discard(self._stage_limit, self)
        self._stage_limit = seconds if seconds is not None and seconds < self._timeout else None
        if self._stage_limit is not None:
            self._deadlines.add(self._stage_limit, self)
