"""A handler on a real folder, a listener that writes down what it hears, and a flow that speaks raw lines."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import Clock, SystemClock

FLOW = "aaaabbbbcccc"
# Only ever reached by a fault; a machine under load takes its time.
DEADLINE = 20.0


class Recorder:
    """A ChannelListener: every call as a tuple, and a condition to wait on."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._changed = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("flow_"):
            raise AttributeError(name)

        def record(*args: Any) -> None:
            self.calls.append((name.removeprefix("flow_"), *args))
            self._changed.set()

        return record

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    async def heard(self, name: str, count: int = 1) -> list[tuple[Any, ...]]:
        """Wait until `name` was called so often."""
        async with asyncio.timeout(DEADLINE):
            while len(self.named(name)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.named(name)


class RawFlow:
    """A flow's end of the socket, without any manners of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> RawFlow:
        return cls(*await asyncio.open_unix_connection(str(path), limit=2**22))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def write_blindly(self, data: bytes) -> None:
        """Also to a connection that the manager has closed: a transport would throw away what came before the close."""
        try:
            os.write(self.writer.get_extra_info("socket").fileno(), data)
        except OSError:
            pass

    async def say(self, **frame: Any) -> None:
        self.writer.write(json.dumps(frame).encode() + b"\n")
        await self.writer.drain()

    async def frame(self) -> dict[str, Any]:
        """The next line; `{}` at the end of the connection."""
        async with asyncio.timeout(DEADLINE):
            line = await self.reader.readline()
        return json.loads(line) if line else {}

    async def frames_until_end(self) -> list[dict[str, Any]]:
        found = []
        try:
            while frame := await self.frame():
                found.append(frame)
        except (ConnectionResetError, BrokenPipeError):
            pass  # the manager closed while lines of ours were unread: what it wrote was read first
        return found

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@pytest.fixture
def sockets_dir() -> Iterator[Path]:
    # Not tmp_path: its name carries the test's, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        yield Path(folder) / "s"
        left = [path for path in Path(folder).rglob("*") if path.is_socket()]
        assert left == [], "sockets were left"


@pytest.fixture
async def listener() -> Recorder:
    return Recorder()


Opener = Callable[..., Awaitable[SocketCommunicationHandler]]


@pytest.fixture
async def open_handler(sockets_dir: Path, listener: Recorder) -> AsyncIterator[Opener]:
    """Makes handlers with settings of the test's own, open and with the flow's socket set up."""
    made: list[SocketCommunicationHandler] = []

    async def make(*, clock: Clock | None = None, **settings: Any) -> SocketCommunicationHandler:
        handler = SocketCommunicationHandler(sockets_dir, ChannelSettings(**settings), listener, clock or SystemClock())
        await handler.open()
        made.append(handler)
        await handler.setup_socket(FLOW)
        return handler

    yield make
    for handler in made:
        await handler.close()


@pytest.fixture
async def handler(open_handler: Opener) -> SocketCommunicationHandler:
    return await open_handler()


@pytest.fixture
async def connect(sockets_dir: Path, listener: Recorder) -> AsyncIterator[Callable[[], Awaitable[RawFlow]]]:
    """Connects a flow; returns once the manager has taken it."""
    flows: list[RawFlow] = []

    async def one() -> RawFlow:
        before = len(listener.named("connected"))
        flows.append(await RawFlow.connect(sockets_dir / FLOW / f"{FLOW}.sock"))
        await listener.heard("connected", before + 1)
        return flows[-1]

    yield one
    for flow in flows:
        await flow.close()


@pytest.fixture
def flow_id() -> str:
    return FLOW
