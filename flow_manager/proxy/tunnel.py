"""After 101: bytes both ways, untouched, with flow control and half-close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.proxy.response_parser import ResponseHead
from flow_manager.proxy.websocket import FrameScanner

if TYPE_CHECKING:
    from flow_manager.proxy.downstream import ClientConnection
    from flow_manager.proxy.upstream import UpstreamConnection
    from flow_manager.proxy.watched import WatchedFlow

# Once the flow has said goodbye, the client has this long to do so.
GOODBYE_SECONDS = 30.0


class Tunnel:
    """Holds a `websocket` lease, touched by data frames alone; another protocol's is a `tcp` one, touched by every byte."""

    ready_for_body = True
    wants_no_body = False
    started = True

    __slots__ = ("_client", "_client_ended", "_from_client", "_from_upstream", "_lease", "_upstream", "_upstream_ended")

    def __init__(
        self, client: ClientConnection, upstream: UpstreamConnection, watcher: WatchedFlow, protocol: bytes
    ) -> None:
        is_websocket = protocol == b"websocket"
        self._client = client
        self._upstream = upstream
        self._lease = watcher.use("websocket" if is_websocket else "tcp", client.peer)
        self._from_client = FrameScanner() if is_websocket else None
        self._from_upstream = FrameScanner() if is_websocket else None
        self._client_ended = False
        self._upstream_ended = False
        # `serve` would set the connection back to reading heads.
        upstream.receiver = self

    # --- from the client ----------------------------------------------------------------------------------------------

    def send_body(self, data: bytes, _done: bool) -> None:
        if self._upstream_ended and self._upstream.transport.is_closing():
            return
        if self._from_client is None or self._from_client.feed(data):
            self._lease.touch()
        self._upstream.transport.write(data)

    def client_eof(self) -> bool:
        """Whether the client may still be sent something."""
        self._client_ended = True
        if self._upstream_ended or self._upstream.transport.is_closing():
            self._end()
            return False
        self._upstream.transport.write_eof()
        return True

    def client_gone(self) -> None:
        self._lease.release()
        self._upstream.close()

    def pause(self) -> None:
        self._upstream.transport.pause_reading()

    def resume(self) -> None:
        if not self._upstream.transport.is_closing():
            self._upstream.transport.resume_reading()

    def shut(self) -> None:
        self._end()

    # --- from the flow ------------------------------------------------------------------------------------------------

    def on_data(self, data: bytes, _done: bool) -> None:
        if self._from_upstream is None or self._from_upstream.feed(data):
            self._lease.touch()
        self._client.write(data)

    def on_upstream_eof(self) -> None:
        self._upstream_ended = True
        if self._client_ended:
            self._end()
        else:
            self._client.half_close(GOODBYE_SECONDS)

    def on_upstream_lost(self) -> None:
        self._end()

    def on_upstream_full(self, full: bool) -> None:
        self._client.hold_back(full)

    def on_interim(self, head: ResponseHead) -> None:
        raise AssertionError("a tunnel reads no heads")

    def on_response(self, head: ResponseHead, data: bytes, done: bool) -> None:
        raise AssertionError("a tunnel reads no heads")

    def on_switched(self, head: ResponseHead, data: bytes) -> None:
        raise AssertionError("a tunnel reads no heads")

    def on_bad_response(self, reason: str) -> None:
        raise AssertionError("a tunnel reads no heads")

    def _end(self) -> None:
        self._lease.release()
        self._upstream.close()
        self._client.close()
