"""One Socket.IO connection, from its opening to its loss; it never connects again by itself.

The library's own reconnection is off: it gives up for good when the server says good-bye (a restart of the service), and
forgets the calls under way, whose callers would then wait for their own time-out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from flow_manager.client.errors import ConnectionLost, ServiceRefused, Unreachable

EventCallback = Callable[[str, Any], None]

# A list of thousands of flows is one message; aiohttp's default bound of 4 MiB would end the connection.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Saying good-bye must not keep a caller: a dead peer never answers the close frame.
CLOSE_TIMEOUT = 2.0
PROBE_TIMEOUT = 3.0


class Connection:
    """`on_event(name, data)` is called in the loop, in order of arrival; `on_lost(reason)` once, unless `close` was called."""

    def __init__(self, url: str, token: str | None, *, on_event: EventCallback, on_lost: Callable[[str], None]) -> None:
        self.url = url
        self.hello: dict[str, Any] = {}
        self._token = token
        self._on_event = on_event
        self._on_lost = on_lost
        self._pending: set[asyncio.Future[Any]] = set()
        self._over: str | None = None
        self._closing = False
        self._http: Any = None
        self._sio: Any = None
        self._refusal: Any = None
        self._hello_came: asyncio.Future[None] | None = None

    @property
    def over(self) -> str | None:
        """Why the connection has ended; None while it lives."""
        return self._over

    async def open(self, timeout: float) -> None:
        """Connect and wait for `hello`.

        :raises ServiceRefused: the token is not known, or this host may not connect.
        :raises Unreachable: within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._open()
        except TimeoutError:
            await self.close()
            raise Unreachable(f"{self.url} gave no answer within {timeout:g} s") from None
        except BaseException:
            await self.close()
            raise

    async def call(self, event: str, data: Any, timeout: float) -> Any:
        """Send an event and give what it is acknowledged with.

        :raises ConnectionLost: the connection ended first.
        :raises Unreachable: no acknowledgement within `timeout` seconds.
        """
        if self._over is not None or self._sio is None:
            raise ConnectionLost(self._over or "not open")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.add(answer)
        try:
            async with asyncio.timeout(timeout):
                await self._emit(event, data, answer)
                return await answer
        except TimeoutError:
            raise Unreachable(f"no answer to {event} within {timeout:g} s") from None
        finally:
            self._pending.discard(answer)

    async def close(self) -> None:
        """End the connection and every task of it; bounded, and safe to repeat."""
        self._closing = True
        self._lost("closed")
        sio, self._sio = self._sio, None
        if sio is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await sio.disconnect()
            except Exception:  # noqa: S110 - a peer that is gone can't be told good-bye
                pass
            await self._end_tasks(sio.eio)
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _open(self) -> None:
        import aiohttp

        self._hello_came = asyncio.get_running_loop().create_future()
        self._http = aiohttp.ClientSession()
        if await self._connect(["websocket"]):
            return
        # Say what is wrong rather than "connection error"; where only websockets are stopped on the way, poll.
        await self._probe()
        if not await self._connect(["polling"]):
            raise Unreachable(f"{self.url} answers, but not to Socket.IO")

    async def _connect(self, transports: list[str]) -> bool:
        """True once `hello` came, False where the transport could not be opened."""
        import socketio

        self._sio = sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,  # the library's handler would cancel every task of the program
            http_session=self._http,
            websocket_extra_options={"max_msg_size": MAX_MESSAGE_BYTES},
        )
        sio.on("*", self._received)
        sio.on("hello", self._hello)
        sio.on("connect_error", self._connect_error)
        sio.on("disconnect", self._disconnected)
        try:
            # The outer time-out bounds the wait; the library's own default of one second would cut a slow service off.
            auth = {"token": self._token} if self._token else None
            await sio.connect(self.url, auth=auth, transports=transports, wait_timeout=3600)
        except socketio.exceptions.ConnectionError:
            if isinstance(self._refusal, dict):
                raise ServiceRefused(_refusal(self._refusal)) from None
            await self._end_tasks(sio.eio)
            self._sio = None
            return False
        if (reading := sio.eio.read_loop_task) is not None:
            reading.add_done_callback(lambda _task: self._disconnected("the connection ended"))
        assert self._hello_came is not None
        await self._hello_came
        return True

    async def _probe(self) -> None:
        """Ask `/healthz` why the connection failed. :raises ServiceRefused, Unreachable:"""
        import aiohttp

        try:
            async with asyncio.timeout(PROBE_TIMEOUT), self._http.get(f"{self.url}/healthz") as answer:
                status = answer.status
                body = await answer.json(content_type=None) if status >= 400 else None
        except aiohttp.InvalidURL:
            raise Unreachable(f"{self.url} is not an address") from None
        except aiohttp.ClientConnectorError as exc:
            number = exc.os_error.errno
            reason = os.strerror(number) if number is not None and number > 0 else str(exc.os_error)
            raise Unreachable(f"nothing answers at {self.url} ({reason}): is `flow-manager serve` running?") from None
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            raise Unreachable(f"{self.url} gives no proper answer ({type(exc).__name__})") from None
        if status in (400, 401, 403, 421):
            raise ServiceRefused(_refusal(body if isinstance(body, dict) else {}, status))
        if status >= 300:
            raise Unreachable(f"{self.url} answers, but it is not a flow manager (HTTP {status})")

    async def _emit(self, event: str, data: Any, answer: asyncio.Future[Any]) -> None:
        import socketio

        def acknowledged(*values: Any) -> None:
            if not answer.done():
                answer.set_result(values[0] if values else None)

        try:
            await self._sio.emit(event, data, callback=acknowledged)
        except (socketio.exceptions.SocketIOError, AttributeError) as exc:
            # The library knows of the loss before it has told us: without this, a caller would try again at once, for ever.
            self._lost(str(exc))
            raise ConnectionLost(str(exc)) from None

    def _received(self, event: str, *values: Any) -> None:
        self._on_event(event, values[0] if values else None)

    def _hello(self, data: Any = None) -> None:
        self.hello = data if isinstance(data, dict) else {}
        if self._hello_came is not None and not self._hello_came.done():
            self._hello_came.set_result(None)

    def _connect_error(self, data: Any = None) -> None:
        self._refusal = data

    def _disconnected(self, reason: Any = None) -> None:
        self._lost(str(reason or "the connection ended"))

    def _lost(self, reason: str) -> None:
        if self._over is not None:
            return
        self._over = reason
        for answer in [*self._pending, *([self._hello_came] if self._hello_came else [])]:
            if not answer.done():
                answer.set_exception(ConnectionLost(reason))
                answer.exception()  # nobody may be waiting any more: not a fault to warn of
        if not self._closing:
            self._on_lost(reason)

    @staticmethod
    async def _end_tasks(eio: Any) -> None:
        tasks = [task for task in (eio.read_loop_task, eio.write_loop_task) if task is not None and not task.done()]
        if (socket := getattr(eio, "ws", None)) is not None and not socket.closed:
            tasks.append(asyncio.ensure_future(socket.close()))
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _refusal(data: dict[str, Any], status: int | None = None) -> dict[str, Any]:
    """The error object out of a `connect_error` ({"message", "data": {…}}) or of an HTTP error's body."""
    inner = data.get("data")
    found = {**data, **inner} if isinstance(inner, dict) else dict(data)
    message = found.get("message") or found.get("detail") or found.get("title") or "the connection was refused"
    return {
        "error": True,
        "error_type": found.get("error_type", "permission_error"),
        "code": found.get("code", "unauthorized" if status in (None, 401) else "forbidden"),
        "message": message,
        "details": found.get("details", {}),
    }
