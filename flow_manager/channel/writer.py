"""Frames on their way out, bounded in bytes.

The transport's high-water mark is 0: it is either empty (all is in the kernel) or blocked. While it is blocked, frames wait
in a queue of ours; one whose time is over is withdrawn from it. Only so are "written" and "not written" facts: a paused
flow's socket takes 18 to 170 kB and then nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque

from flow_manager.channel.pending import Pending
from flow_manager.errors import QueueFull

# Queued frames are joined into writes of about this size: a system call each would be the cost of a drained queue.
JOINED_WRITE = 128 * 1024


class FrameWriter:
    """Writes to one transport. The protocol passes on `pause_writing` (as `blocked = True`) and `resume_writing`."""

    __slots__ = (
        "_in_flight",
        "_limit",
        "_queue",
        "_queued_bytes",
        "_transport",
        "_write_timeout",
        "blocked",
        "unread_answers",
    )

    def __init__(self, transport: asyncio.Transport, *, limit: int, write_timeout: float) -> None:
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._limit = limit
        self._write_timeout = write_timeout
        self.blocked = False
        # Bytes of frames without a waiting sender that are still in the queue.
        self.unread_answers = 0
        # Made at need: an empty deque takes 700 bytes, more than all the rest of an idle connection's.
        self._queue: deque[tuple[bytes, Pending | None]] | None = None
        self._queued_bytes = 0
        self._in_flight: list[Pending] = []

    def check_room(self, size: int) -> None:
        """:raises QueueFull: no room for `size` more bytes, and the flow does not read."""
        if self.blocked and self._queued_bytes + size > self._limit:
            raise QueueFull(
                f"the flow does not read: {self._queued_bytes} bytes wait for it already", limit=self._limit, size=size
            )

    def queue(self, frame: bytes, pending: Pending) -> None:
        """Keep a message until the flow reads again; `pending` hears when its last byte has left."""
        self._enqueue(frame, pending)
        pending.waits_to_be_written(self._write_timeout)

    def follow(self, pending: Pending) -> None:
        """The last frame, which is `pending`'s, is not wholly written yet."""
        self._in_flight.append(pending)
        pending.waits_to_be_written(self._write_timeout)

    def answer(self, frame: bytes) -> None:
        """Write or queue a frame that nobody waits for; whoever asks for answers is bounded by `unread_answers`."""
        if self.blocked:
            self.unread_answers += len(frame)
            self._enqueue(frame, None)
        else:
            self._transport.write(frame)

    def withdraw(self, pending: Pending) -> None:
        """Its sender has given up: if it is still in our queue, it will never be written."""
        if not self.blocked:
            return
        # Rare (a flow that does not read), and the queue is bounded: a walk is cheaper than an index kept for every frame.
        queue = self._queue or deque()
        for index, (frame, queued) in enumerate(queue):
            if queued is pending:
                del queue[index]
                self._queued_bytes -= len(frame)
                return

    def resumed(self) -> None:
        """The transport is empty again: tell who waited for that, and write what waits."""
        self.blocked = False
        self._tell_written()
        while self._queue and not self.blocked and not self._transport.is_closing():
            self._transport.write(self._next_batch(self._queue))
            if not self.blocked:
                self._tell_written()

    def _enqueue(self, frame: bytes, pending: Pending | None) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((frame, pending))
        self._queued_bytes += len(frame)

    def _next_batch(self, queue: deque[tuple[bytes, Pending | None]]) -> bytes:
        batch: list[bytes] = []
        size = 0
        while queue and size < JOINED_WRITE:
            frame, pending = queue.popleft()
            self._queued_bytes -= len(frame)
            if pending is None:
                self.unread_answers -= len(frame)
            elif pending.future.done():
                # Its time was over in this very turn of the loop: its sender has been told, and has yet to withdraw it.
                continue
            else:
                self._in_flight.append(pending)
            batch.append(frame)
            size += len(frame)
        return b"".join(batch)

    def _tell_written(self) -> None:
        written, self._in_flight = self._in_flight, []
        for pending in written:
            pending.written()
