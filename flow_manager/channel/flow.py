"""One flow's end of the channel: its listener, the one connection that counts, and what is known of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flow_manager.channel import frames
from flow_manager.channel.connection import Connection
from flow_manager.channel.deadlines import Deadlines
from flow_manager.channel.frames import Frame
from flow_manager.channel.listener import ChannelListener, tell
from flow_manager.channel.peer import LocalPeer, Peer
from flow_manager.channel.server import FlowListener
from flow_manager.errors import NotConnected
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import Clock

_log = logging.getLogger(__name__)

# Wire contract, section 7: at most one activity entry about bad frames a minute.
BAD_FRAME_INTERVAL = 60.0
# Closing is a matter of the next turn of the loop; a transport that takes longer is left to itself.
CLOSE_DEADLINE = 2.0


class FlowChannel:
    def __init__(
        self,
        flow_id: str,
        settings: ChannelSettings,
        listener: ChannelListener,
        clock: Clock,
        deadlines: Deadlines,
        issued: Callable[[str], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.flow_id = flow_id
        self.connection: Connection | None = None
        # None: the flow comes in by the door for other machines.
        self.server: FlowListener | None = None
        self.issued = issued
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._deadlines = deadlines
        self._loop = loop
        # Those that were made and are not closed yet: the one that counts, and ones taken over.
        self._connections: set[Connection] = set()
        self._accepting: set[asyncio.Task[Any]] = set()
        self._waiters: set[asyncio.Future[Any]] = set()
        self._last_heard: float | None = None
        self._last_told: tuple[float, datetime] | None = None
        self._bad_frames = 0
        self._bad_reason = ""
        self._bad_timer: asyncio.TimerHandle | None = None
        self._ended = False

    def last_communication(self) -> datetime | None:
        """When the flow was last heard. The same until it is heard again: kept, because two clocks are never read at once."""
        heard = self._last_heard
        if self.connection is not None and self.connection.last_heard is not None:
            heard = self.connection.last_heard
        if heard is None:
            return None
        if self._last_told is None or self._last_told[0] != heard:
            age = timedelta(seconds=self._clock.monotonic() - heard)
            self._last_told = heard, self._clock.now() - age
        return self._last_told[1]

    def next_message(self) -> asyncio.Future[Any]:
        """A future of the next message that the flow sends on its own. Whoever gives it up cancels it."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    def listen(self, path: Path, folder: int, *, own_user_only: bool = False) -> None:
        """Listen on a socket at `path`, where the place is clear. `folder`: a descriptor of the flow's folder.

        `own_user_only`: refuse users other than root and the one that this service runs as.

        :raises SystemFailure: it can't listen there. DiskFull where that is why.
        """
        if self.server is None:
            self.server = FlowListener(path, self._accepted, self._clock.monotonic, self._loop)
        # The socket was removed under a listener: that one can't be reached any more.
        self.server.close()
        self.server.own_user_only = own_user_only
        self.server.open(folder)

    def connection_from(self, peer: Peer) -> Connection:
        """The protocol for a connection of this flow's."""
        return Connection(self, self._settings, self._deadlines, self._clock.monotonic, self._loop, peer)

    async def end(self) -> None:
        """Close the listener and all connections; what waits fails with NotConnected."""
        self._ended = True
        if self.server is not None:
            self.server.close()
        for task in self._accepting:
            task.cancel()
        if self._bad_timer is not None:
            self._bad_timer.cancel()
            self._tell_bad_frames()
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_exception(NotConnected("the flow's channel was closed"))
        closing = [connection.ended() for connection in self._connections]
        for connection in list(self._connections):
            connection.close()
        if self._accepting:
            await asyncio.wait(self._accepting, timeout=CLOSE_DEADLINE)
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_DEADLINE)

    # --- ConnectionOwner ----------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._ended:
            connection.close()
            return
        older, self.connection = self.connection, connection
        if older is not None:
            self._keep_last_heard(older)
            older.close(frames.TAKEN_OVER, "a newer connection of this flow has taken over")
            tell(self._listener.flow_disconnected, self.flow_id)
        tell(self._listener.flow_connected, self.flow_id)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection is self.connection:
            self._keep_last_heard(connection)
            self.connection = None
            tell(self._listener.flow_disconnected, self.flow_id)

    def said(self, body: Any) -> None:
        tell(self._listener.flow_message, self.flow_id, body)
        if self._waiters:
            self._give_to_waiters(body)

    def heard(self, frame: Frame) -> None:
        if type(frame) is frames.ActorEvent:
            tell(self._listener.flow_actor_event, self.flow_id, frame.actor, frame.event, frame.details)
        elif type(frame) is frames.Busy:
            seconds = min(frame.seconds, self._settings.max_busy)
            tell(self._listener.flow_busy, self.flow_id, seconds, frame.reason)
        elif type(frame) is frames.Ready:
            tell(self._listener.flow_ready, self.flow_id)
        elif type(frame) is frames.Idle:
            tell(self._listener.flow_idle, self.flow_id)
        elif type(frame) is frames.Refusal:
            self._bad_frame(frame.reason)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _accepted(self, accepted: socket.socket, peer: LocalPeer) -> None:
        _log.debug("flow %s: connection of %s", self.flow_id, peer)
        task = self._loop.create_task(self._adopt(accepted, peer))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _adopt(self, accepted: socket.socket, peer: LocalPeer) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self.connection_from(peer), accepted)
        except OSError as exc:
            _log.warning("flow %s: a connection could not be taken: %s", self.flow_id, exc.strerror)
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    def _give_to_waiters(self, body: Any) -> None:
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_result(body)

    def _keep_last_heard(self, connection: Connection) -> None:
        if connection.last_heard is not None:
            self._last_heard = connection.last_heard

    def _bad_frame(self, reason: str) -> None:
        # Kept for the flow, not for the connection: one that reconnects after each bad line would get an entry each.
        self._bad_frames += 1
        self._bad_reason = reason
        if self._bad_timer is None:
            self._tell_bad_frames()
            self._bad_timer = self._loop.call_later(BAD_FRAME_INTERVAL, self._bad_frame_minute_over)

    def _bad_frame_minute_over(self) -> None:
        self._bad_timer = None
        if self._bad_frames:
            self._tell_bad_frames()
            self._bad_timer = self._loop.call_later(BAD_FRAME_INTERVAL, self._bad_frame_minute_over)

    def _tell_bad_frames(self) -> None:
        count, self._bad_frames = self._bad_frames, 0
        if count:
            tell(self._listener.flow_bad_frame, self.flow_id, self._bad_reason, count)
