"""A Socket.IO client for the benchmarks: python-socketio's own, whose every call must succeed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import socketio

CALL_SECONDS = 120


class Client:
    def __init__(self) -> None:
        self.io = socketio.AsyncClient(reconnection=False)

    async def call(self, event: str, **data: Any) -> Any:
        """The reply's `data`. :raises RuntimeError: the service said no: such a figure would mean nothing."""
        reply = await self.io.call(event, data, timeout=CALL_SECONDS)
        if reply["error"]:
            raise RuntimeError(f"{event}: {reply['code']}: {reply['message']}")
        return reply["data"]


@asynccontextmanager
async def connected(url: str, transport: str = "websocket") -> AsyncIterator[Client]:
    client = Client()
    await client.io.connect(url, transports=[transport])
    try:
        yield client
    finally:
        await client.io.disconnect()


@asynccontextmanager
async def many_connected(url: str, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(url)) for _ in range(count)]
