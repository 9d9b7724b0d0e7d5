"""One request on its way to a ready flow and the response on its way back: the ready path. No task, no timer, while a
connection is at hand; a task only to make a new one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flow_manager.proxy.chunked import LAST_CHUNK, encode_chunk
from flow_manager.proxy.headers import CHUNKED, UNTIL_CLOSE, framing_of, response_bytes
from flow_manager.proxy.held_request import UpstreamRefused
from flow_manager.proxy.problems import Problem
from flow_manager.proxy.reach import Asleep, NoRoom, TakesNone, reach
from flow_manager.proxy.response_parser import ResponseHead
from flow_manager.proxy.tunnel import Tunnel
from flow_manager.proxy.watched import Use, WatchedFlow

if TYPE_CHECKING:
    from flow_manager.proxy.downstream import ClientConnection
    from flow_manager.proxy.holding import Holding
    from flow_manager.proxy.upstream import UpstreamConnection

# A request whose flow ended under its feet within so many seconds of its sending is repeated, where it may be: whoever worked on
# it for longer has seen it, and it goes there once.
REPEAT_WINDOW = 0.25
# Head and body go out in one write up to this size; copying more costs more than a second write.
_ONE_WRITE = 16 * 1024
_KEEP_ALIVE_10 = b"Connection: keep-alive\r\n"
_CLOSE = b"Connection: close\r\n"


class Forward:
    """`started`: the client has been sent part of the response. `ready_for_body`: the request's body may be sent on."""

    __slots__ = (
        "_chunks",
        "_client",
        "_cold_start",
        "_holding",
        "_keep",
        "_lease",
        "_response",
        "_retried",
        "_sent_at",
        "_task",
        "_upstream",
        "_watcher",
        "head",
        "ready_for_body",
        "started",
        "wants_no_body",
    )

    def __init__(
        self,
        client: ClientConnection,
        watcher: WatchedFlow,
        *,
        lease: Use | None,
        holding: Holding | None = None,
        cold_start: bool = False,
    ) -> None:
        assert client.head is not None
        self.head = client.head
        self.wants_no_body = self.head.method == b"HEAD"
        self.ready_for_body = False
        self.started = False
        self._client = client
        self._watcher = watcher
        self._lease = lease
        self._holding = holding
        self._cold_start = cold_start
        self._upstream: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._response: ResponseHead | None = None
        self._retried = False
        self._sent_at = 0.0
        self._keep = False
        self._chunks = False

    def start(self) -> None:
        upstream = self._client.edge.pool.take(self._watcher, repeatable=self.head.is_repeatable)
        if upstream is not None:
            self._attach(upstream)
        else:
            self._task = self._client.edge.run(self._connect())

    # --- to the flow --------------------------------------------------------------------------------------------------

    def _attach(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self._sent_at = self._client.edge.loop.time()
        upstream.serve(self)
        client, head = self._client, self.head
        data = client.asker.request_bytes(head)
        self.ready_for_body = True
        if head.has_body:
            pending, done = client.take_pending()
            if head.chunked:
                data += b"".join(map(encode_chunk, pending)) + (LAST_CHUNK if done else b"")
            else:
                data += b"".join(pending)
            upstream.transport.write(data)
            client.hold_back(False)
        else:
            upstream.transport.write(data)

    def send_body(self, data: bytes, done: bool) -> None:
        upstream = self._upstream
        if upstream is None or upstream.transport.is_closing():
            return  # it has answered early, or is lost, which is told separately
        if self.head.chunked:
            data = encode_chunk(data) + LAST_CHUNK if done else encode_chunk(data)
        if data:
            upstream.transport.write(data)

    async def _connect(self) -> None:
        try:
            upstream = await reach(self._client.edge, self._watcher)
        except Asleep:
            self._hand_back("it sleeps again")
        except NoRoom as error:
            self._fail(error.problem)
        except TakesNone:
            if self._holding is not None:
                self._hand_back("it takes no connection")
            else:
                problem = Problem(502, "upstream_refused", "the flow is running but takes no connection")
                self._fail(problem.about(self._watcher, retry=True))
        else:
            self._task = None
            self._attach(upstream)

    def _hand_back(self, reason: str) -> None:
        """Nothing of a response came, and nothing of the request was sent, or it may be sent again: it waits for the next wake."""
        self._release()
        if self._holding is not None:
            self._holding.take_back(UpstreamRefused(f"the flow could not be reached: {reason}"))
        else:
            self._client.hold(self._watcher)

    # --- from the flow ------------------------------------------------------------------------------------------------

    def on_interim(self, head: ResponseHead) -> None:
        if head.status != 100 and self.head.minor == 1:
            # 100 was ours to say; hints (103) and "still at it" (102) are the flow's.
            self._client.write(response_bytes(head, b"", b"", False))

    def on_response(self, head: ResponseHead, data: bytes, done: bool) -> None:
        client = self._client
        framing = framing_of(head, self.head)
        self._chunks = framing is CHUNKED
        self._keep = keep = framing is not UNTIL_CLOSE and client.may_keep(self.head)
        connection = _CLOSE if not keep else b"" if self.head.minor == 1 else _KEEP_ALIVE_10
        if head.upgrade is not None:
            # Without it a 426 wouldn't say what to upgrade to (RFC 9110, section 15.5.22).
            connection += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        self.started = True
        self._response = head
        raw = response_bytes(head, framing or b"", connection, self._cold_start)
        if self._chunks:
            data = encode_chunk(data) + LAST_CHUNK if done else encode_chunk(data)
        if len(data) <= _ONE_WRITE:
            client.write(raw + data)
        else:
            client.write(raw)
            client.write(data)
        if done:
            self._finish()

    def on_data(self, data: bytes, done: bool) -> None:
        if self._chunks:
            data = encode_chunk(data) + LAST_CHUNK if done else encode_chunk(data)
        if data:
            self._client.write(data)
        if done:
            self._finish()

    def on_switched(self, head: ResponseHead, data: bytes) -> None:
        asked = self.head.upgrade
        upstream = self._upstream
        assert upstream is not None
        if asked is None or head.upgrade is None or head.upgrade not in asked.lower().replace(b" ", b"").split(b","):
            self.on_bad_response("it switches to a protocol that nobody asked for")
            return
        self.started = True
        lines = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        raw = response_bytes(head, b"", lines, self._cold_start)
        client = self._client
        tunnel = Tunnel(client, upstream, self._watcher, head.upgrade)
        self._upstream = None
        self._release()
        client.write(raw)
        client.tunnel(tunnel)
        if self._holding is not None:
            self._holding.forwarded()
        if data:
            tunnel.on_data(data, False)

    def on_bad_response(self, reason: str) -> None:
        self._drop_upstream()
        self._fail(Problem(502, "bad_response", f"the flow's answer can't be passed on: {reason}").about(self._watcher))

    def on_upstream_eof(self) -> None:
        self.on_upstream_lost()

    def on_upstream_lost(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        pooled, silent = upstream.used > 0, not upstream.touched
        if pooled and silent:
            self._client.edge.pool.is_hasty(self._watcher)
        self._drop_upstream()
        soon = self._client.edge.loop.time() - self._sent_at < REPEAT_WINDOW
        if silent and soon and self.head.is_repeatable and not self._retried:
            self._retried = True
            if pooled and self._watcher.ready_now():
                # It had given the idle connection up when the request was on its way.
                self.ready_for_body = False
                self._task = self._client.edge.run(self._connect())
                return
            if not self._watcher.ready_now() and self.head.is_safe:
                self._hand_back("it ended")
                return
        self._fail(
            Problem(502, "upstream_closed", "the flow closed the connection before its answer was complete").about(
                self._watcher, retry=True
            )
        )

    def on_upstream_full(self, full: bool) -> None:
        self._client.hold_back(full)

    # --- from the client ----------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        self._drop_upstream()
        self._release()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._holding is not None:
            self._holding.client_gone()

    def client_eof(self) -> bool:
        return True

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.transport.pause_reading()

    def resume(self) -> None:
        if self._upstream is not None and not self._upstream.transport.is_closing():
            self._upstream.transport.resume_reading()

    def shut(self) -> None:
        """The proxy closes; a response under way may end, if it ever does."""
        if self._response is not None and self._response.is_endless:
            self._client.close()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        client = self._client
        if not client.request_complete:
            upstream.abort()  # it waits for the rest of a body that won't come
        else:
            if client.paused and not upstream.transport.is_closing():
                upstream.transport.resume_reading()
            client.edge.pool.give(upstream)
        lease = self._lease
        if lease is not None:
            self._lease = None
            lease.release()
        if self._holding is not None:
            self._holding.forwarded()
        client.finished(self._keep)

    def _fail(self, problem: Problem) -> None:
        self._release()
        self._task = None
        client, holding = self._client, self._holding
        if self.started:
            # The client must see that something is missing: where only the end of the connection ends the body, a reset.
            client.cut_off(reset=not self._chunks and self.head.minor == 0)
        else:
            client.answer(problem)
        if holding is not None:
            holding.forwarded()

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
