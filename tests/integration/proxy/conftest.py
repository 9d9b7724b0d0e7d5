"""A proxy in front of real upstreams, with a registry and watchers that a test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.wake import WakeEvent
from flow_manager.errors import FlowManagerError
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.server import ProxyServer
from flow_manager.settings.models import ProxySettings, Settings
from flow_manager.util.clock import SystemClock

DEADLINE = 10.0


@dataclass(eq=False)
class FakeLease:
    flow: FakeFlow
    kind: str
    holder: str
    touched: int = 0
    released: bool = False

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.flow.held.remove(self)
            self.flow.changed.set()

    def touch(self) -> None:
        self.touched += 1
        self.flow.changed.set()


class FakeHistory:
    def entries(self) -> list[WakeEvent]:
        return []

    def subscribe(self, _callback: Callable[[WakeEvent], None]) -> Callable[[], None]:
        return lambda: None


@dataclass(eq=False)
class FakeFlow:
    """A watcher that is in whatever state the test says. `on_wake` is what a wake does."""

    id: str
    name: str
    upstream: tuple[str, int] | None = None
    tenant: str = "default"
    state: str = "ready"
    hosts: tuple[str, ...] = ()
    policy: IdlePolicy | None = None
    desired: str = "running"
    expected_start: float | None = 0.1
    error: str | None = None
    failure: FlowManagerError | None = None
    last_ready: datetime | None = datetime(2026, 1, 1, tzinfo=UTC)
    history: FakeHistory = field(default_factory=FakeHistory)
    held: list[FakeLease] = field(default_factory=list)
    leases: list[FakeLease] = field(default_factory=list)
    wakes: int = 0
    on_wake: Callable[[], Awaitable[None]] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def use(self, kind: str, holder: str) -> FakeLease:
        lease = FakeLease(self, kind, holder)
        self.held.append(lease)
        self.leases.append(lease)
        self.changed.set()
        return lease

    def ready_now(self) -> bool:
        return self.state == "ready" and self.upstream is not None

    def retry_after(self) -> int:
        return 2

    def begin_wake(self, *, reason: str) -> None:
        self.wakes += 1

    async def wake(self, *, reason: str, by_request: bool = True) -> None:
        self.wakes += 1
        if self.on_wake is not None:
            await self.on_wake()

    def start(self, upstream: tuple[str, int]) -> None:
        """Ready again, as another start."""
        self.upstream, self.state = upstream, "ready"
        assert self.last_ready is not None
        self.last_ready += timedelta(seconds=1)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about its leases is so."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class FakeRegistry:
    def __init__(self, flows: Iterable[FakeFlow]) -> None:
        self.generation = 1
        self.flows = list(flows)

    def watchers(self) -> Iterable[FakeFlow]:
        return list(self.flows)

    def watcher(self, flow_id: str) -> FakeFlow | None:
        return next((flow for flow in self.flows if flow.id == flow_id), None)


@dataclass
class Proxy:
    server: ProxyServer
    registry: FakeRegistry

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def flow(self) -> FakeFlow:
        return self.registry.flows[0]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, raw: bytes) -> bytes:
        """Send that, and everything that comes back until the proxy closes."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            async with asyncio.timeout(DEADLINE):
                return await reader.read(-1)
        finally:
            writer.close()


@pytest.fixture
async def proxies(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Proxy]]]:
    """`await proxies(flow, …, **proxy settings)`: a proxy that listens; closed at the end."""
    opened: list[ProxyServer] = []

    async def make(*flows: FakeFlow, clock: Any = None, **settings: Any) -> Proxy:
        registry = FakeRegistry(flows)
        server = ProxyServer(
            Settings(state_dir=tmp_path, sockets_dir=tmp_path / "s", proxy_port=0, proxy=ProxySettings(**settings)),
            registry,  # type: ignore[arg-type]
            SystemLogger(),
            clock or SystemClock(),
        )
        await server.open()
        opened.append(server)
        return Proxy(server, registry)

    yield make
    for server in opened:
        await server.close(1.0)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[tuple[str, int]]]]:
    """`await serve(handler)`: a raw TCP server, for what no HTTP library would send. Gives its address."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def make(handler: Handler) -> tuple[str, int]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
        servers.append(server)
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address

    yield make
    for server in servers:
        server.close()
    for task in list(tasks):
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=2)


@pytest.fixture
def flow() -> Callable[..., FakeFlow]:
    def make(upstream: tuple[str, int] | None = None, **fields: Any) -> FakeFlow:
        return FakeFlow(**{"id": "abcdefghijkl", "name": "web", "upstream": upstream, **fields})

    return make


__all__ = ["DEADLINE", "FakeFlow", "Proxy", "asynccontextmanager"]
