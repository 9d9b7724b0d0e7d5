"""One connection of one flow: frames in, frames out, bounded both ways.

Beyond its allowance, or while it leaves our answers unread, a flow's socket is not read, and the kernel makes it wait. So the
memory for one flow is a line, a piece of what the loop reads at once, and the writer's queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

from flow_manager.channel import frames
from flow_manager.channel.deadlines import Deadlines
from flow_manager.channel.frames import MAX_NAME, LineSplitter, Refusal, frame_of, parse
from flow_manager.channel.half_line import HalfLineWatch
from flow_manager.channel.peer import ConnectionOwner, Peer
from flow_manager.channel.pending import REPLY, Pending
from flow_manager.channel.taking import BAD_LINES_A_SECOND, TAKE
from flow_manager.channel.throttle import BadLines, TokenBucket
from flow_manager.channel.writer import FrameWriter
from flow_manager.errors import NotConnected
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.strict_json import JsonRefused, loads

_log = logging.getLogger(__name__)

# Answers (acks, errors, pongs) that a flow may leave unread before it is no longer read itself. Not 0: a flow with one
# thread that writes a long line while we write one to it would wait for us, and we for it, for ever.
UNREAD_ANSWERS = 64 * 1024
# A flow that was slowed down is looked at again when a twentieth of its allowance is back: 20 wakes a second, not 1,000.
RESUME_SHARE = 0.05


class Connection(asyncio.Protocol):
    __slots__ = (
        "_closing", "_deadlines", "_ended", "_half_line", "_held", "_introduced", "_loop", "_reading",
        "_resume_timer", "_settings", "_splitter", "_spoke", "_transport", "_writer", "acks", "bad_lines", "bucket",
        "last_heard", "monotonic", "owner", "peer", "pending",
    )  # fmt: skip

    def __init__(
        self,
        owner: ConnectionOwner,
        settings: ChannelSettings,
        deadlines: Deadlines,
        monotonic: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
    ) -> None:
        self.peer = peer
        # The flow promised in its hello to acknowledge every message.
        self.acks = False
        self.last_heard: float | None = None
        self._spoke = False
        self.owner = owner
        self._settings = settings
        self._deadlines = deadlines
        self.monotonic = monotonic
        self._loop = loop
        self._splitter = LineSplitter(settings.max_line)
        self.bucket = TokenBucket(settings.messages_per_second, monotonic)
        self.bad_lines: BadLines | None = None
        self.pending: dict[str, Pending] = {}
        # Lines that came beyond the flow's allowance.
        self._held: Sequence[bytes] = ()
        self._reading = True
        self._closing = False
        # Made when somebody waits for it: an idle connection is to cost little.
        self._ended: asyncio.Future[None] | None = None
        # Likewise: whoever asks waits for the flow's first frame, or for the end.
        self._introduced: asyncio.Event | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._half_line: HalfLineWatch | None = None

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writer = FrameWriter(
            self._transport, limit=self._settings.outbox, write_timeout=self._settings.write_timeout
        )
        self.owner.connected(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self.last_heard = self.monotonic()
        splitter = self._splitter
        if splitter.partial is None and data.endswith(b"\n") and len(data) <= self._settings.max_line:
            # Whole lines, and none before them that was not: nothing to keep, and nothing to watch that isn't watched yet.
            # Nearly always it is one, and its newline may stay: to JSON it is white space.
            lines: Sequence[bytes] = (data,) if data.find(b"\n") == len(data) - 1 else data[:-1].split(b"\n")
            if self._held:
                self._held = [*self._held, *lines]
            else:
                self._take(lines)
            if self._half_line is not None:
                self._half_line.finished()
            return
        lines = splitter.feed(data)
        if lines:
            if self._held:
                self._held = [*self._held, *lines]
            else:
                self._take(lines)
        if splitter.overflow:
            self._close_for(frames.FRAME_TOO_LARGE, f"a line is longer than {self._settings.max_line} bytes")
        elif splitter.partial is not None:
            if self._half_line is None:
                self._half_line = HalfLineWatch(
                    self._settings.partial_line_timeout, lambda: self._reading, self._half_line_expired, self._loop
                )
            self._half_line.unfinished(began_now=bool(lines))
        elif self._half_line is not None:
            self._half_line.finished()

    def pause_writing(self) -> None:
        self._writer.blocked = True

    def resume_writing(self) -> None:
        self._writer.resumed()
        self._choose_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._half_line is not None:
            self._half_line.close()
        self._held = ()
        self._fail_pending("the flow's connection ended before it answered")
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if self._introduced is not None:
            self._introduced.set()
        self.owner.lost(self)

    # --- to the flow --------------------------------------------------------------------------------------------------

    def send(self, message_id: str, frame: bytes, *, expect_reply: bool, timeout: float) -> Pending | None:
        """Write a message. None: it is delivered, and nothing is waited for.

        The future of what is pending may end with ReplyTimeout or NotConnected. Whoever gets no result from it calls `forget`.

        :raises NotConnected: the connection has ended or is about to.
        :raises QueueFull: the flow does not read, and what waits for it has reached the limit.
        """
        writer = self._writer
        if self._closing:
            raise NotConnected("the flow's connection is closing")
        if writer.blocked:
            writer.check_room(len(frame))
            pending = self._expect(message_id, expect_reply, timeout)
            writer.queue(frame, pending)
            return pending
        # By hand, not through the writer: most messages take this way.
        transport = self._transport
        transport.write(frame)
        if transport.is_closing():
            raise NotConnected("the flow has closed its connection")
        if not writer.blocked:
            if not expect_reply and not self.acks:
                return None
            if self.acks:
                pending = self._expect(message_id, expect_reply, timeout)
                pending.written()
                return pending
            pending = Pending(
                message_id, self._loop.create_future(), self.pending, self._deadlines, True, None, timeout
            )
            pending.stage = REPLY
            return pending
        pending = self._expect(message_id, expect_reply, timeout)
        writer.follow(pending)
        return pending

    def forget(self, pending: Pending) -> None:
        """Nobody waits for this message any more: stop its deadlines and, if it was not written, withdraw it."""
        pending.forget()
        self._writer.withdraw(pending)

    async def introduced(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the flow's first frame: from then on `acks` says what it promised."""
        if not self._spoke and not self._closing:
            if self._introduced is None:
                self._introduced = asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._introduced.wait()
            except TimeoutError:
                return False
        return self._spoke and not self._closing

    def answer(self, frame: bytes) -> None:
        """Write a frame that nobody waits for."""
        if not self._closing:
            self._writer.answer(frame)
            if self._writer.blocked:
                self._choose_reading()

    def close(self, code: str | None = None, reason: str | None = None) -> None:
        """Say why, where the flow still reads, and close. What waits for an answer fails at once."""
        if self._closing:
            return
        if code is not None and not self._writer.blocked:
            self._writer.answer(frames.encode_error(code, reason))
        self._closing = True
        self._fail_pending("the flow's connection was closed before it answered")
        if self._writer.blocked:
            # A gentle close waits until all is written: for ever, where the flow does not read.
            self._transport.abort()
        else:
            self._transport.close()

    def ended(self) -> asyncio.Future[None]:
        """Done once nothing is left of the connection. To be asked for before that."""
        if self._ended is None:
            self._ended = self._loop.create_future()
        return self._ended

    # --- from the flow ------------------------------------------------------------------------------------------------

    def _take(self, lines: Sequence[bytes]) -> None:
        answers: list[bytes] = []
        bucket = self.bucket
        rest = iter(lines)
        for line in rest:
            if bucket.tokens < 1 and not bucket.refill():
                self._hold([line, *rest])
                break
            try:
                data = loads(line)
            except JsonRefused:
                bucket.tokens -= 1
                frame = parse(line)
                if frame is None:
                    continue
            else:
                # Nearly all that comes is an answer that is waited for, or a message: they take a short way, without
                # becoming a frame, where nothing is unusual about them.
                kind = data.get("type") if type(data) is dict else None
                if kind == "reply" and type(to := data.get("to")) is str:
                    pending = self.pending.get(to)
                    if pending is not None:
                        # What we asked for costs the flow nothing.
                        pending.finish(data.get("body"))
                        continue
                bucket.tokens -= 1
                if (
                    kind == "message"
                    and type(to := data.get("id")) is str
                    and 0 < len(to) <= MAX_NAME
                    and "body" in data
                ):
                    self.owner.said(data["body"])
                    answers.append(frames.encode_ack(to))
                    continue
                frame = frame_of(data)
            try:
                answer = TAKE[type(frame)](self, frame)
            except Exception:
                # A fault of ours with one frame must not end the connection, nor reach the loop as a fatal error.
                _log.exception("a frame of type %s could not be handled", type(frame).__name__)
                answer = frames.encode_error(frames.INTERNAL)
            if answer is not None:
                answers.append(answer)
                if self.bad_lines is not None and self.bad_lines.too_many:
                    break
        if not self._spoke:
            self._spoke = True
            if self._introduced is not None:
                self._introduced.set()
        if answers:
            self.answer(answers[0] if len(answers) == 1 else b"".join(answers))
            if self.bad_lines is not None and self.bad_lines.too_many:
                self.close(frames.BAD_FRAME, f"{BAD_LINES_A_SECOND} bad lines within a second: closing")

    def _half_line_expired(self) -> None:
        self._close_for(frames.BAD_FRAME, f"half a line for {self._settings.partial_line_timeout:g} s")

    def _close_for(self, code: str, reason: str) -> None:
        if not self._closing:
            self.owner.heard(Refusal(frames.BAD_FRAME, reason))
            self.close(code, reason)

    # --- flow control -------------------------------------------------------------------------------------------------

    def _hold(self, lines: Sequence[bytes]) -> None:
        self._held = lines
        self._choose_reading()
        self._resume_timer = self._loop.call_later(self.bucket.seconds_until(RESUME_SHARE), self._resume)

    def _resume(self) -> None:
        self._resume_timer = None
        if not self._closing:
            lines, self._held = self._held, ()
            self._take(lines)
            self._choose_reading()

    def _choose_reading(self) -> None:
        wanted = not self._held and self._writer.unread_answers <= UNREAD_ANSWERS
        if wanted == self._reading or self._closing or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- what waits ---------------------------------------------------------------------------------------------------

    def _expect(self, message_id: str, expect_reply: bool, timeout: float) -> Pending:
        ack_timeout = self._settings.ack_timeout if self.acks else None
        return Pending(
            message_id, self._loop.create_future(), self.pending, self._deadlines, expect_reply, ack_timeout, timeout
        )

    def _fail_pending(self, message: str) -> None:
        for pending in list(self.pending.values()):
            pending.fail(NotConnected(message, message_id=pending.message_id))
