"""SocketCommunicationHandler: all flows' channels (wire contract, section 7)."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flow_manager.channel import folders, frames
from flow_manager.channel.deadlines import Deadlines
from flow_manager.channel.flow import FlowChannel
from flow_manager.channel.listener import ChannelListener
from flow_manager.channel.remote import RemoteChannel
from flow_manager.errors import FrameTooLarge, InvalidRequest, NotConnected, ReplyTimeout, SystemFailure
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import Clock
from flow_manager.util.ids import is_flow_id
from flow_manager.util.strict_json import JsonRefused

__all__ = ["KEPT_PREFIX", "ChannelListener", "Delivery", "SocketCommunicationHandler"]

# How ids begin that were made elsewhere and outlive this handler: those of stored messages.
KEPT_PREFIX = "k-"


class Delivery(NamedTuple):
    """`delivered`: written and, where the flow said `acks`, acknowledged."""

    message_id: str
    delivered: bool
    replied: bool
    reply: Any = None


# What `Delivery(…)` does, at half its cost: each message makes one.
_delivery: Callable[[tuple[str, bool, bool, Any]], Delivery] = partial(tuple.__new__, Delivery)


class SocketCommunicationHandler:
    """Owns `sockets_dir` between `open` and `close`. To be used in one event loop, that of `open`."""

    def __init__(
        self,
        sockets_dir: Path,
        settings: ChannelSettings,
        listener: ChannelListener,
        clock: Clock,
        *,
        secrets_dir: Path | None = None,
    ) -> None:
        """`secrets_dir`: where the TLS port keeps its key and certificate; default: a folder beside `sockets_dir`'s flows."""
        self._sockets_dir = sockets_dir.absolute()
        self._remote = RemoteChannel(settings, secrets_dir or self._sockets_dir / ".tls", clock)
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._channels: dict[str, FlowChannel] = {}
        self._descriptor: int | None = None
        self._deadlines: Deadlines | None = None
        # Ids are a random part and a count: unique across restarts, and at a glance ours or not, at no memory.
        self._id_prefix = ""
        self._issued = 0

    async def open(self) -> None:
        """Make the sockets folder where it is missing, and close it to other users. What is in it stays untouched.

        :raises SettingsRefused: the folder, or the TLS port, can't be used; the text says why, and what to do.
        """
        self._descriptor = folders.open_sockets_dir(self._sockets_dir)
        try:
            self._remote.open()
        except BaseException:
            await self.close()
            raise
        self._deadlines = Deadlines(asyncio.get_running_loop())
        self._id_prefix = f"m-{secrets.token_hex(5)}-"

    def welcome_remote(self) -> None:
        """Let flows on other machines in. Not before those that run are expected: others are turned away."""
        self._remote.welcome(self._expected)

    async def close(self) -> None:
        """End all channels. Sockets are removed, the flows' folders stay: they are mounted into what goes on running."""
        await self._remote.close()
        while self._channels:
            await asyncio.gather(*(self.cleanup_socket(flow_id) for flow_id in list(self._channels)))
        if self._deadlines is not None:
            self._deadlines.close()
            self._deadlines = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def folder(self, flow_id: str) -> Path:
        """The flow's folder, which is mounted into it at `/run/flow`.

        :raises ValueError: not a flow's id; it would become part of a path.
        """
        if not is_flow_id(flow_id):
            raise ValueError(f"{flow_id[:64]!r} is not a flow's id")
        return self._sockets_dir / flow_id

    def socket_path(self, flow_id: str) -> Path:
        return self.folder(flow_id) / f"{flow_id}.sock"

    async def prepare_folder(self, flow_id: str) -> Path:
        """Make the flow's folder, so that it can be mounted, without listening yet.

        :raises SystemFailure: it can't be made. DiskFull where that is why.
        """
        sockets_dir, _ = self._opened()
        folders.make_anew_if_gone(self._sockets_dir, sockets_dir)
        with folders.flow_folder(sockets_dir, flow_id):
            return self.folder(flow_id)

    async def setup_socket(self, flow_id: str, *, own_user_only: bool = False) -> Path:
        """Listen for this flow; a socket that a former manager left is replaced. Does nothing where all is in place.

        `own_user_only`: the flow runs as this service's user, so whoever is another (and not root) is refused.

        :raises SystemFailure: the folder or the socket can't be made. DiskFull where that is why.
        """
        path = self.socket_path(flow_id)
        sockets_dir, deadlines = self._opened()
        folders.make_anew_if_gone(self._sockets_dir, sockets_dir)
        with folders.flow_folder(sockets_dir, flow_id) as folder:
            channel = self._channels.get(flow_id)
            if channel is not None and channel.server is not None and channel.server.is_open(folder):
                return path
            await folders.clear(path.name, folder)
            if channel is None:
                channel = self._new_channel(flow_id, deadlines)
            channel.listen(path, folder, own_user_only=own_user_only)
            self._channels[flow_id] = channel
        return path

    def expect_remote(self, flow_id: str) -> None:
        """Let this flow in by the TLS port, until `cleanup_socket`. Does nothing where it is expected already."""
        _, deadlines = self._opened()
        self.socket_path(flow_id)  # an id, or ValueError
        if flow_id not in self._channels:
            self._channels[flow_id] = self._new_channel(flow_id, deadlines)

    def remote_variables(self, flow_id: str) -> dict[str, str]:
        """What a flow on another machine needs in its environment: FLOW_URL, FLOW_TOKEN and, but for a public authority, FLOW_CA.

        Empty where settings have no TLS port: it then has no channel.
        """
        return self._remote.variables(flow_id)

    @property
    def remote_url(self) -> str:
        """Where flows on other machines connect; empty where settings have no TLS port."""
        return self._remote.url

    async def cleanup_socket(self, flow_id: str, *, remove_folder: bool = False) -> None:
        """End this flow's channel: no listener, no connection, no socket file. Does nothing where there is none.

        :raises SystemFailure: something in the folder can't be removed.
        """
        path = self.socket_path(flow_id)
        channel = self._channels.pop(flow_id, None)
        if channel is not None:
            await channel.end()
        sockets_dir, _ = self._opened()
        if flow_id in self._channels:
            # Set up again while the old connections were closing: what is there now is in use.
            return
        await folders.remove_socket(sockets_dir, flow_id, path.name)
        if remove_folder:
            await folders.remove_flow_folder(sockets_dir, flow_id)

    def is_socket_connected(self, flow_id: str) -> bool:
        channel = self._channels.get(flow_id)
        return channel is not None and channel.connection is not None

    def last_communication(self, flow_id: str) -> datetime | None:
        """When the flow last sent anything, in UTC; None where it never did since its channel was set up."""
        channel = self._channels.get(flow_id)
        return None if channel is None else channel.last_communication()

    async def introduced(self, flow_id: str, timeout: float) -> bool:
        """Wait until the flow has said its first word on this connection, so that it is known whether it acknowledges.

        False: it has said nothing within `timeout` seconds (a hello is optional), or its connection has ended.
        """
        channel = self._channels.get(flow_id)
        connection = None if channel is None else channel.connection
        return connection is not None and await connection.introduced(timeout)

    def frame_of(self, message_id: str, body: dict[str, Any]) -> bytes:
        """The line that a message would be.

        :raises FrameTooLarge: it would be longer than a line may be.
        :raises InvalidRequest: `body` is not plain JSON data.
        """
        try:
            frame = frames.encode_message(message_id, body)
        except JsonRefused as refused:
            raise InvalidRequest(f"message: {refused}") from None
        if len(frame) > self._settings.max_line:
            raise FrameTooLarge(
                f"the message makes a line of {len(frame)} bytes; {self._settings.max_line} are allowed",
                limit=self._settings.max_line,
                size=len(frame),
            )
        return frame

    async def send_message(
        self,
        flow_id: str,
        body: dict[str, Any],
        *,
        expect_reply: bool = False,
        timeout: float = 30.0,
        message_id: str | None = None,
        on_delivered: Callable[[], None] | None = None,
    ) -> Delivery:
        """Give the flow a message. `timeout`: seconds for all of it; writing and acknowledging have limits of their own.

        `message_id`: of a message that has one already (it begins with `KEPT_PREFIX`), since it may come twice.
        `on_delivered`: called once it is delivered, where that is before the end of this call: a reply is waited for.

        :raises NotConnected: no connection, or it ended before the answer.
        :raises ReplyTimeout: not read, not acknowledged or not replied to in time: `details.waited_for` says which.
        :raises FrameTooLarge: it would be longer than a line may be.
        :raises QueueFull: the flow does not read, and too much waits for it already.
        :raises InvalidRequest: `body` is not plain JSON data.
        """
        channel = self._channels.get(flow_id)
        if channel is None or (connection := channel.connection) is None:
            raise NotConnected(f"flow {flow_id} is not connected to its channel", container_id=flow_id)
        if message_id is None:
            self._issued += 1
            message_id = f"{self._id_prefix}{self._issued}"
        frame = self.frame_of(message_id, body)
        pending = connection.send(message_id, frame, expect_reply=expect_reply, timeout=timeout)
        if pending is None:
            return Delivery(message_id, True, False)
        if on_delivered is not None:
            pending.tell_delivered(on_delivered)
        try:
            reply = await pending.future
        except BaseException:
            # Cancelled, or too late: it must not be written any more where it still waits to be.
            connection.forget(pending)
            raise
        return _delivery((message_id, True, expect_reply, reply))

    async def receive_message(self, flow_id: str, timeout: float) -> Any:
        """The body of the next message that the flow sends on its own, within `timeout` seconds.

        It need not be connected yet. All who wait get the same one, and so does the listener.

        :raises ReplyTimeout: none came.
        :raises NotConnected: the flow has no channel, or it was closed meanwhile.
        """
        channel = self._channels.get(flow_id)
        if channel is None:
            raise NotConnected(f"flow {flow_id} has no channel", container_id=flow_id)
        try:
            async with asyncio.timeout(timeout):
                return await channel.next_message()
        except TimeoutError:
            raise ReplyTimeout(
                f"the flow sent no message within {timeout:g} s", waited_for="message", timeout=timeout
            ) from None

    def announce_stopping(self, flow_id: str, seconds: float) -> None:
        """Tell the flow that it has `seconds` until it is ended. Best effort: one that is away is not told."""
        channel = self._channels.get(flow_id)
        if channel is not None and channel.connection is not None:
            channel.connection.answer(frames.encode_stopping(seconds))

    def _opened(self) -> tuple[int, Deadlines]:
        if self._descriptor is None or self._deadlines is None:
            raise SystemFailure("the channel is not open")
        return self._descriptor, self._deadlines

    def _new_channel(self, flow_id: str, deadlines: Deadlines) -> FlowChannel:
        return FlowChannel(
            flow_id, self._settings, self._listener, self._clock, deadlines, self._is_issued,
            asyncio.get_running_loop(),
        )  # fmt: skip

    def _expected(self, flow_id: str) -> FlowChannel | None:
        """One with a socket of its own comes in by that alone."""
        channel = self._channels.get(flow_id)
        return channel if channel is not None and channel.server is None else None

    def _is_issued(self, message_id: str) -> bool:
        if message_id.startswith(KEPT_PREFIX):
            # Perhaps of an earlier run: its answer comes too late for anybody, which is no fault of the flow's.
            return True
        count = message_id.removeprefix(self._id_prefix)
        if len(count) == len(message_id) or not count.isascii() or not count.isdigit():
            return False
        return 0 < int(count) <= self._issued
