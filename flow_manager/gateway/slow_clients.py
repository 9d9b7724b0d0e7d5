"""What waits for one client, bounded in bytes.

engineio's own queue has no bound: 1,500 events of 100 KB to a stalled client took 140 MB, and 29 MB were still held 20 s
after its ping timeout. It also costs a task, two queue operations and a timer for each packet and client.

This one stands in the same place (`queue` of the Engine.IO socket), so that whatever anybody sends goes through it, in order:

- while a WebSocket is attached and reads, a frame is written to its transport at once: no task, no queue;
- when the transport has `DIRECT_BOUND` bytes pending, frames wait here, and one task hands them on as the client reads;
- frames with the same key (a flow's status) replace each other while they wait;
- one frame alone, however large, is no sign of a slow client: the bound is for what comes beside it, and a large reply waits
  for its turn (`turn`) while others are on their way;
- past the bound the client is cut off: what waits is dropped, `on_overflow` ends the connection. It resumes by cursor;
- who can wait (a terminal's output) asks for `room` first, and is never the reason for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from flow_manager.gateway.frames import BinaryFrame, Frame, websocket_text

# What may be pending in a transport before frames wait here: the high-water mark at which asyncio says "stop writing".
DIRECT_BOUND = 64 * 1024
# How often a transport is looked at that alone holds what is pending, in seconds.
LOOK_AGAIN = 0.01
# A client that takes nothing for so long does not read; its ping would end it a little later.
TURN_SECONDS = 30.0
# A packet that is not one of our frames (ping, open, close, connect) is small; its size is not worth encoding it twice.
SMALL_PACKET = 256


class _Latest:
    """The place in the queue of frames that replace each other; the newest is sent at the place of the first."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame = frame


class Outbox(asyncio.Queue[Any]):
    """The queue of one Engine.IO socket. `limit`: bytes that may wait, transport included. Not thread-safe, like its base."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.on_overflow: Callable[[], None] | None = None
        self._bytes = 0
        # Bytes of a frame that was sent when nothing waited: what may be pending beside the limit.
        self._alone = 0
        self._turn = asyncio.Lock()
        self._latest: dict[str, _Latest] = {}
        self._socket: web.WebSocketResponse | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._taken: asyncio.Event | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    @property
    def closed(self) -> bool:
        return self._closed

    def attach(self, socket: web.WebSocketResponse, transport: asyncio.WriteTransport) -> None:
        """From now on write to this WebSocket, what already waits first.

        Whole frames may be put on the transport beside aiohttp's own only because it writes each frame in one go, without
        giving way in between; with compression it would not, so that is refused.
        """
        if socket.compress:
            raise ValueError("frames can't be written directly beside compressed ones")
        self._socket, self._transport = socket, transport
        self._hand_on()

    def put_nowait(self, item: Any) -> None:
        """Send: at once where the client reads, else when it does. Never blocks, never raises."""
        if self._closed:
            return
        transport = self._transport
        if (
            transport is not None
            and self._pump is None
            and item is not None
            and transport.get_write_buffer_size() <= DIRECT_BOUND
        ):
            self._alone = _large(item)
            self._write(transport, item)
            return
        self._hold(item)
        if transport is not None:
            self._hand_on()

    def send_all(self, frames: list[Frame], wire: bytes) -> None:
        """Several frames at once; `wire` is all of them, joined once for every client."""
        transport = self._transport
        if (
            transport is not None
            and self._pump is None
            and not self._closed
            and transport.get_write_buffer_size() <= DIRECT_BOUND
        ):
            self._alone = 0
            if not transport.is_closing():
                transport.write(wire)
            return
        for frame in frames:
            self.put_nowait(frame)

    async def room(self, bound: int) -> None:
        """Wait until at most `bound` bytes are pending, or the client is gone."""
        while self.pending_bytes > bound and not self._closed:
            if self._pump is None and self.empty():
                # All of it is in the transport, which tells nobody.
                await asyncio.sleep(LOOK_AGAIN)
                continue
            if self._taken is None:
                self._taken = asyncio.Event()
            self._taken.clear()
            await self._taken.wait()

    async def turn(self, size: int) -> None:
        """Before a reply of so many bytes: return when it fits beside what waits, or nothing waits.

        Replies are asked for: a client that asked for several large ones, and reads them, is not slow. After `TURN_SECONDS`
        it is; then the bound decides.
        """
        if size <= DIRECT_BOUND:
            return
        async with self._turn:
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    await self.room(max(0, self.limit - size))
            except TimeoutError:
                pass

    def discard(self) -> None:
        """Drop what waits and take nothing more; who waits in `get` is let go with a None. Its memory is free at once."""
        self._closed = True
        while not self.empty():
            self.get_nowait()
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None  # one that never began runs no `finally`
        self._transport = self._socket = None
        super().put_nowait(None)
        self._went()

    # --- the three hooks of asyncio.Queue --------------------------------------------------------------------------

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= _size(item)
        self._went()
        if type(item) is _Latest:
            self._latest.pop(item.frame.key or "", None)
            return item.frame
        return item

    def _went(self) -> None:
        if self._taken is not None:
            self._taken.set()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _hold(self, item: Any) -> None:
        key = item.key if isinstance(item, Frame) else None
        if key is not None:
            place = self._latest.get(key)
            if place is not None:
                self._bytes += _size(item) - _size(place)
                place.frame = item
                return
            item = self._latest[key] = _Latest(item)
        if self.pending_bytes == 0:
            self._alone = _large(item)
        super().put_nowait(item)
        if self.pending_bytes > self.limit + self._alone and self.on_overflow is not None:
            self.on_overflow()

    def _hand_on(self) -> None:
        if self._pump is None and not self.empty():
            self._pump = asyncio.get_running_loop().create_task(self._pump_out())

    async def _pump_out(self) -> None:
        """Hand on what waits, as fast as the client reads. Ends when nothing waits."""
        try:
            while not self.empty() and self._socket is not None:
                item = self.get_nowait()
                if item is None:
                    continue
                # aiohttp waits here while the transport is full.
                await self._socket.send_frame(_payload(item), WSMsgType.TEXT)
                if isinstance(item, BinaryFrame) and self._socket is not None:
                    # Nothing comes in between: while this task runs, all that is sent waits behind it.
                    await self._socket.send_frame(item.attachment, WSMsgType.BINARY)
                self._went()
        except (ConnectionError, RuntimeError):
            pass  # the connection ended meanwhile; its reader notices, too, and cleans up
        finally:
            self._pump = None

    def _write(self, transport: asyncio.WriteTransport, item: Any) -> None:
        if not transport.is_closing():
            transport.write(item.wire if isinstance(item, Frame) else websocket_text(_payload(item)))


def _payload(item: Any) -> bytes:
    return item.payload if isinstance(item, Frame) else str(item.encode()).encode()


def _large(item: Any) -> int:
    size = _size(item)
    return size if size > DIRECT_BOUND else 0


def _size(item: Any) -> int:
    if isinstance(item, Frame):
        return item.size
    if type(item) is _Latest:
        return item.frame.size
    return SMALL_PACKET
