"""The slow path's side of a connection: one held request, its task, and what that may do with the client."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from flow_manager.errors import FlowManagerError
from flow_manager.proxy.chunked import LAST_CHUNK, encode_chunk
from flow_manager.proxy.forward import Forward
from flow_manager.proxy.headers import own_response_bytes
from flow_manager.proxy.held_request import ClientGone, Headers, HeldRequest, UpstreamRefused
from flow_manager.proxy.problems import Problem, of_error
from flow_manager.proxy.routing import host_name
from flow_manager.proxy.watched import WatchedFlow

if TYPE_CHECKING:
    from flow_manager.proxy.downstream import ClientConnection

# After its client has left, a held request's task may tidy up for this long.
GONE_GRACE = 1.0


class Holding:
    """An exchange whose response isn't (only) a flow's. Implements `held_request.Connection`."""

    ready_for_body = False
    wants_no_body = False

    __slots__ = ("_chunks", "_client", "_keep", "_over", "_room", "_task", "_waiter", "_watcher", "request", "started")

    def __init__(self, client: ClientConnection, watcher: WatchedFlow) -> None:
        head = client.head
        assert head is not None
        self._client = client
        self._watcher = watcher
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._chunks = False
        self._keep = False
        # The response has ended, or the client has left: the connection isn't ours any more.
        self._over = False
        self.started = False
        self.request = HeldRequest(
            method=head.method,
            target=head.target,
            headers=head.pairs(),
            host=host_name(head.authority),
            peer=client.asker.address(head),
            head=head,
            gone=asyncio.Event(),
            _connection=self,
        )

    def start(self) -> None:
        self._task = self._client.edge.run(self._run())

    async def _run(self) -> None:
        from flow_manager.proxy.hold import slow_path  # it imports this package's held_request; late, to break the ring

        edge, watcher = self._client.edge, self._watcher
        try:
            await slow_path(self.request, watcher, edge.context)  # type: ignore[arg-type]
        except ClientGone:
            pass
        except FlowManagerError as error:
            self._answer(of_error(error, watcher, frank=edge.context.frank))
        except Exception as error:
            error_id = secrets.token_hex(6)
            edge.log.log_error(error_id, error, flow=watcher.id)
            self._answer(Problem(500, "internal", "the request could not be handled", extra={"error_id": error_id}))
        if self.started and not self._over:
            self._over = True
            self._client.cut_off(reset=not self._chunks)
        self._answer(Problem(500, "internal", "the request was left without an answer"))

    def _answer(self, problem: Problem) -> None:
        if not self._over and not self.started and self._waiter is None:
            self._over = self.started = True
            self._client.answer(problem)

    # --- held_request.Connection --------------------------------------------------------------------------------------

    @property
    def answered(self) -> bool:
        return self.started

    def held_body(self) -> bytes:
        return b"".join(self._client.body.waiting)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self._gone():
            return
        self._begin()
        self._over = True
        self._client.respond(status, headers, body)

    def start_stream(self, status: int, headers: Headers) -> None:
        if self._gone():
            return
        self._begin()
        client = self._client
        head = self.request.head
        self._chunks = head.minor == 1
        self._keep = self._chunks and client.may_keep(head)
        framing = b"Transfer-Encoding: chunked\r\n" if self._chunks else b""
        if not self._keep:
            framing += b"Connection: close\r\n"
        client.write(own_response_bytes(status, headers, framing=framing, date=client.edge.date()))

    def write_stream(self, data: bytes) -> None:
        if not self._over and data and self.request.method != b"HEAD":
            self._client.write(encode_chunk(data) if self._chunks else data)

    async def drain(self) -> None:
        await self._room.wait()
        if self.request.gone.is_set():
            raise ClientGone

    def end_stream(self) -> None:
        if self._over:
            return
        self._over = True
        if self._chunks and self.request.method != b"HEAD":
            self._client.write(LAST_CHUNK)
        self._client.finished(self._keep)

    async def forward_held(self, watcher: WatchedFlow, *, cold_start: bool) -> None:
        if self.request.gone.is_set():
            raise ClientGone
        if self._over or self.started or self._waiter is not None:
            raise RuntimeError("the request was answered already")
        client = self._client
        self._waiter = waiter = client.edge.loop.create_future()
        forward = Forward(
            client, watcher, lease=client.asker.lease(watcher, self.request.head), holding=self, cold_start=cold_start
        )
        client.exchange = forward
        forward.start()
        try:
            await waiter
        except asyncio.CancelledError:
            if client.exchange is forward:
                client.abort()
            raise

    # --- from the forwarding ------------------------------------------------------------------------------------------

    def take_back(self, error: UpstreamRefused) -> None:
        self._client.exchange = self
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def forwarded(self) -> None:
        self._over = self.started = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- from the connection ------------------------------------------------------------------------------------------

    def send_body(self, data: bytes, done: bool) -> None:
        raise AssertionError("a held request's body stays where it is")

    def client_gone(self) -> None:
        self._over = True
        self.request.gone.set()
        self._room.set()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(ClientGone())
            waiter.exception()  # looked at, should the task be gone already
        if self._task is not None and not self._task.done():
            task = self._task
            handle = self._client.edge.loop.call_later(GONE_GRACE, task.cancel)
            task.add_done_callback(lambda _task: handle.cancel())

    def client_eof(self) -> bool:
        return True

    def pause(self) -> None:
        self._room.clear()

    def resume(self) -> None:
        self._room.set()

    def shut(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.started:
            self._client.abort()
        else:
            self._answer(Problem(503, "shutting_down", "the service is stopping", retry_after=1))

    def _gone(self) -> bool:
        return self.request.gone.is_set()

    def _begin(self) -> None:
        if self.started or self._over or self._waiter is not None:
            raise RuntimeError("the request was answered already")
        self.started = True
