"""The connection that is made again when it is lost, and the calls that outlive it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from flow_manager.client.connection import Connection, EventCallback
from flow_manager.client.errors import ConnectionLost, ServiceRefused, Unreachable
from flow_manager.util.backoff import exponential

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0

_log = logging.getLogger(__name__)


class Session:
    """`on_connection(True | False)` tells of every loss and return after the first connect; `on_change()` of both, too.

    After `reconnect_for` seconds without a connection, or when the token is refused, the session has failed for good.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        connect_timeout: float,
        reconnect_for: float,
        on_event: EventCallback,
        on_loss: Callable[[], None],
        on_connection: Callable[[bool], None] | None,
    ) -> None:
        self._url = url
        self._token = token
        self._connect_timeout = connect_timeout
        self._reconnect_for = reconnect_for
        self._on_event = on_event
        self._on_loss = on_loss
        self._on_connection = on_connection
        self._connection: Connection | None = None
        self._settled = asyncio.Event()  # connected, or failed for good
        self._failure: Exception | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def hello(self) -> dict[str, Any]:
        return self._connection.hello if self._connection is not None else {}

    @property
    def failure(self) -> Exception | None:
        """Why it has ended for good; None while it may come back."""
        return self._failure

    async def open(self) -> None:
        """:raises ServiceRefused, Unreachable:"""
        try:
            await self._connect()
        except ConnectionLost as exc:
            raise Unreachable(f"{self._url} ended the connection: {exc}") from None

    async def close(self) -> None:
        self._closing = True
        # First of all: a call under way would otherwise try the dying connection again and again.
        self._failure = Unreachable("the client is closed")
        self._settled.set()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def call(self, event: str, payload: dict[str, Any], timeout: float) -> Any:
        """The reply of an event; sent again, as it is, when the connection is lost before the answer.

        :raises ServiceRefused, Unreachable: within `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                return await self.call_once(event, payload, max(0.01, deadline - loop.time()))
            except ConnectionLost:
                continue

    async def call_once(self, event: str, payload: dict[str, Any], timeout: float) -> Any:
        """As `call`, but on one connection. :raises ConnectionLost:"""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        connection = await self._connected(deadline)
        return await connection.call(event, payload, max(0.01, deadline - loop.time()))

    async def _connected(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                await self._settled.wait()
        except TimeoutError:
            raise Unreachable(f"no connection to {self._url}") from None
        if self._failure is not None:
            raise self._failure
        assert self._connection is not None
        return self._connection

    async def _connect(self) -> None:
        connection = Connection(self._url, self._token, on_event=self._on_event, on_lost=self._lost)
        await connection.open(self._connect_timeout)
        if connection.over is not None:  # it went in the moment in which it was opened
            await connection.close()
            raise ConnectionLost(connection.over)
        self._connection = connection
        self._settled.set()

    def _lost(self, reason: str) -> None:
        # A connection that is lost while it is being opened is told to whoever opens it.
        if self._closing or not self._settled.is_set():
            return
        self._settled.clear()
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(reason))
        self._tell(False)
        self._on_loss()

    async def _reconnect(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._reconnect_for
        if self._connection is not None:
            await self._connection.close()
        for delay in exponential(FIRST_DELAY, maximum=LONGEST_DELAY):
            try:
                await self._connect()
            except ServiceRefused as exc:
                # A service that is about to stop refuses, too; only a caller that may not connect is final.
                if exc.error_type == "permission_error":
                    self._failure = exc
                    break
            except (Unreachable, ConnectionLost):
                pass
            else:
                self._tell(True)
                return
            if loop.time() + delay >= deadline:
                self._failure = Unreachable(f"the connection to {self._url} was lost ({reason}) and did not come back")
                break
            await asyncio.sleep(delay)
        self._settled.set()
        self._on_loss()

    def _tell(self, connected: bool) -> None:
        if self._on_connection is None:
            return
        try:
            self._on_connection(connected)
        except Exception:  # a caller's callback that raises must not end the session
            _log.exception("a callback failed")
