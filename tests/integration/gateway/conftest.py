"""A real gateway on a free port, over a manager and a stream that the tests steer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import socketio
from aiohttp import web

from flow_manager.contract import inside, requests
from flow_manager.contract.activity import Activity
from flow_manager.contract.inside import LogLineModel, Logs, UpdateContainer
from flow_manager.contract.models import (
    ContainerInfo,
    ContainerStatus,
    Deleted,
    IdlePolicy,
    MessageDelivery,
    ResourceUsage,
)
from flow_manager.contract.principal import Principal
from flow_manager.contract.wake import IdleExplanation, WakeEvent, WakeHistory
from flow_manager.errors import ContainerNotFound, NameConflict
from flow_manager.gateway.server import Gateway
from flow_manager.settings.models import Settings
from flow_manager.store.base import StoredActivity
from flow_manager.util.clock import SystemClock
from flow_manager.web.routes import build_app

DEADLINE = 10.0


class FakeManager:
    """Flows in a dictionary. `hold`: operations wait for it. `broken`: what `get_status` raises."""

    def __init__(self) -> None:
        self.flows: dict[str, dict[str, Any]] = {}
        self.hold: asyncio.Event | None = None
        self.broken: Exception | None = None
        self.calls: list[tuple[str, Principal]] = []
        self.on_change: Callable[[str, ContainerStatus], None] = lambda tenant, status: None
        self.finished: list[str] = []

    def _flow(self, principal: Principal, ref: str) -> dict[str, Any]:
        for flow in self.flows.values():
            if ref in (flow["id"], flow["name"]) and flow["tenant"] == principal.tenant:
                return flow
        raise ContainerNotFound(ref, kind="memory")

    def resolve(self, principal: Principal, ref: str) -> str:
        return str(self._flow(principal, ref)["id"])

    def _status(self, flow: dict[str, Any]) -> ContainerStatus:
        running = flow["state"] == "running"
        return ContainerStatus(
            id=flow["id"],
            name=flow["name"],
            state=flow["state"],
            health="none",
            flow_state="ready" if running else "napping",
            desired="running" if running else "stopped",
            uptime=1.5 if running else None,
            socket_connected=running,
            last_communication=None,
            resource_usage=ResourceUsage(),
        )

    def _info(self, flow: dict[str, Any]) -> ContainerInfo:
        return ContainerInfo(
            id=flow["id"],
            name=flow["name"],
            runtime="memory",
            runtime_id=None,
            status=flow["state"],
            image="local",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            socket_path=None,
            ports={},
            addresses=[],
            hosts=[],
            environment={},
            labels={},
            adopted=False,
            desired="stopped",
            idle=None,
        )

    async def _to(self, verb: str, principal: Principal, ref: str, state: str) -> ContainerStatus:
        self.calls.append((verb, principal))
        flow = self._flow(principal, ref)
        if self.hold is not None:
            await self.hold.wait()
        flow["state"] = state
        self.finished.append(verb)
        status = self._status(flow)
        self.on_change(principal.tenant, status)
        return status

    async def create_container(self, principal: Principal, request: requests.CreateContainer) -> ContainerInfo:
        self.calls.append(("create", principal))
        name = request.name or "flow-aaaaaaaaaaaa"
        if any(flow["name"] == name for flow in self.flows.values()):
            raise NameConflict(f"the name '{name}' is taken", kind="memory", name=name)
        flow_id = f"{name:a<12.12}".replace("-", "a")
        self.flows[flow_id] = {
            "id": flow_id,
            "name": name,
            "tenant": principal.tenant,
            "state": "running" if request.start else "created",
        }
        return self._info(self.flows[flow_id])

    async def start_container(self, principal: Principal, request: requests.StartContainer) -> ContainerStatus:
        return await self._to("start", principal, request.container_id, "running")

    async def stop_container(self, principal: Principal, request: requests.StopContainer) -> ContainerStatus:
        return await self._to("stop", principal, request.container_id, "exited")

    async def restart_container(self, principal: Principal, request: requests.RestartContainer) -> ContainerStatus:
        return await self._to("restart", principal, request.container_id, "running")

    async def update_container(self, principal: Principal, request: UpdateContainer) -> ContainerInfo:
        return self.get_container(principal, requests.OneContainer(container_id=request.container_id))

    async def rollback_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerInfo:
        return self.get_container(principal, requests.OneContainer(container_id=request.container_id))

    async def pause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        return await self._to("pause", principal, request.container_id, "paused")

    async def unpause_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        return await self._to("unpause", principal, request.container_id, "running")

    async def kill_container(self, principal: Principal, request: requests.KillContainer) -> ContainerStatus:
        return await self._to("kill", principal, request.container_id, "exited")

    async def delete_container(self, principal: Principal, request: requests.DeleteContainer) -> Deleted:
        flow = self._flow(principal, request.container_id)
        del self.flows[flow["id"]]
        return Deleted(container_id=flow["id"])

    async def send_message(self, principal: Principal, request: requests.SendMessage) -> MessageDelivery:
        self._flow(principal, request.container_id)
        return MessageDelivery(message_id="msg-1", delivered=True, queued=False, reply=request.message)

    def get_status(self, principal: Principal, request: requests.OneContainer) -> ContainerStatus:
        if self.broken is not None:
            raise self.broken
        return self._status(self._flow(principal, request.container_id))

    def get_container(self, principal: Principal, request: requests.OneContainer) -> ContainerInfo:
        return self._info(self._flow(principal, request.container_id))

    def list_containers(self, principal: Principal, request: requests.ListContainers) -> list[ContainerInfo]:
        return [self._info(flow) for flow in self.flows.values() if flow["tenant"] == principal.tenant]


class FakeWaker:
    """Sleeps and wakes the flows of a FakeManager, and tells each step of it."""

    def __init__(self, manager: FakeManager) -> None:
        self.manager = manager
        self.listeners: list[tuple[str, Callable[[str, WakeEvent], None]]] = []
        self.history: list[WakeEvent] = []
        self.policies: dict[str, IdlePolicy] = {}

    def step(self, flow_id: str, kind: Any) -> None:
        event = WakeEvent(type=kind, message=kind, timestamp=datetime(2026, 1, 1, tzinfo=UTC), id=len(self.history) + 1)
        self.history.append(event)
        for of, listener in list(self.listeners):
            if of == flow_id:
                listener(flow_id, event)

    async def wake_container(self, principal: Principal, request: requests.WakeContainer) -> ContainerStatus:
        flow_id = self.manager.resolve(principal, request.container_id)
        self.step(flow_id, "starting")
        status = await self.manager._to("wake", principal, request.container_id, "running")
        self.step(flow_id, "ready")
        return status

    async def sleep_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        return await self.manager._to("sleep", principal, request.container_id, "exited")

    async def set_idle_policy(self, principal: Principal, request: requests.SetIdlePolicy) -> IdleExplanation:
        self.policies[self.manager.resolve(principal, request.container_id)] = request.idle
        return self.explain_container(principal, requests.OneContainer(container_id=request.container_id))

    def explain_container(self, principal: Principal, request: requests.OneContainer) -> IdleExplanation:
        flow = self.manager._flow(principal, request.container_id)
        return IdleExplanation(
            container_id=flow["id"],
            name=flow["name"],
            flow_state="ready" if flow["state"] == "running" else "napping",
            desired="running",
            idle=self.policies.get(flow["id"]),
            leases=[],
            sleeps_in=None,
            sleeps_at=None,
            last_slept=None,
            last_woke=None,
            crashes=0,
            retry_in=None,
            waiting_for=None,
            error=None,
            summary="as the test says",
        )

    def subscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: Callable[[str, WakeEvent], None]
    ) -> WakeHistory:
        self.listeners.append((self.manager.resolve(principal, request.container_id), listener))
        return WakeHistory(history=list(self.history))

    def unsubscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: Callable[[str, WakeEvent], None]
    ) -> None:
        self.listeners = [item for item in self.listeners if item[1] is not listener]


class FakeDesk:
    """Terminals with one viewer each; they echo unless the test says no."""

    def __init__(self) -> None:
        self.viewers: dict[str, Any] = {}
        self.typed: list[bytes] = []
        self.echo = True

    async def attach(self, principal: Principal, request: inside.AttachContainer, viewer: Any) -> inside.Attached:
        terminal_id = request.terminal_id or f"t{len(self.viewers)}"
        self.viewers[terminal_id] = viewer
        return inside.Attached(terminal_id=terminal_id, offset=0)

    async def write(self, principal: Principal, terminal_id: str, data: bytes, request_id: str | None = None) -> None:
        self.typed.append(data)
        if self.echo:
            self.viewers[terminal_id].output(terminal_id, 0, data)

    async def resize(self, principal: Principal, terminal_id: str, cols: int, rows: int) -> None: ...

    def detach(self, principal: Principal, terminal_id: str, viewer: Any) -> None:
        assert self.viewers.pop(terminal_id) is viewer

    def leave(self, viewer: Any) -> None:
        self.viewers = {id: other for id, other in self.viewers.items() if other is not viewer}


@dataclass(frozen=True)
class FakeBatch:
    items: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.items))


class FakeReader:
    """What the flows of a FakeManager write and use, as the test says: `write`, `use`, `end`."""

    def __init__(self, manager: FakeManager) -> None:
        self.manager = manager
        self.followers: list[tuple[str, Any]] = []
        self.usage_followers: list[tuple[str, Any]] = []
        self.begin_with: tuple[str, ...] = ("hello",)
        self.hold: asyncio.Event | None = None
        self.due = False

    @staticmethod
    def batch(*texts: str) -> FakeBatch:
        return FakeBatch(
            tuple(json.dumps({"stream": "stdout", "text": text, "timestamp": None}).encode() for text in texts)
        )

    def write(self, *texts: str) -> None:
        batch = self.batch(*texts)
        for _, follower in self.followers:
            follower.take(batch)

    async def get_logs(self, principal: Principal, request: Any) -> Logs:
        self.manager._flow(principal, request.container_id)
        lines = [LogLineModel(stream="stdout", text=text, timestamp=None) for text in self.begin_with]
        return Logs(lines=lines[-request.tail :] if request.tail else [])

    async def follow(self, principal: Principal, request: Any, make: Callable[[str], Any]) -> None:
        flow_id = self.manager.resolve(principal, request.container_id)
        if self.hold is not None:
            await self.hold.wait()
        follower = make(flow_id)
        if self.begin_with:
            follower.take(self.batch(*self.begin_with))
        self.followers.append((flow_id, follower))

    def leave(self, flow_id: str, follower: Any) -> None:
        self.followers = [item for item in self.followers if item[1] is not follower]

    def status_is_due(self, principal: Principal, request: Any) -> bool:
        return self.due

    async def status(self, principal: Principal, request: Any) -> ContainerStatus:
        status = self.manager.get_status(principal, request)
        return status.model_copy(update={"resource_usage": ResourceUsage(cpu_percent=12.5, memory_bytes=1000, pids=1)})

    def follow_usage(self, principal: Principal, request: Any, make: Callable[[str], Any]) -> None:
        flow_id = self.manager.resolve(principal, request.container_id)
        follower = make(flow_id)
        self.usage_followers.append((flow_id, follower))
        follower.sampled(ResourceUsage(), datetime(2026, 1, 1, tzinfo=UTC))

    def leave_usage(self, flow_id: str, listener: Any) -> None:
        self.usage_followers = [item for item in self.usage_followers if item[1] is not listener]


class FakeStream:
    """An activity log in memory. `store` and `publish` are apart, as in the real one."""

    stream = "test-stream"

    def __init__(self) -> None:
        self.entries: list[StoredActivity] = []
        self.head = 0
        self.low = 0
        self.publish_to: Callable[[Sequence[StoredActivity]], None] = lambda entries: None
        self.on_read: Callable[[], Awaitable[None]] | None = None

    def store(
        self, *, type: str = "test", tenant: str = "default", container_id: str | None = None, **details: Any
    ) -> StoredActivity:
        stored = StoredActivity(
            tenant,
            Activity(
                cursor=len(self.entries) + 1,
                stream=self.stream,
                type=type,
                container_id=container_id,
                name=None,
                actor="test",
                message="it happened",
                details=details,
                timestamp=datetime(2026, 1, 1, tzinfo=UTC),
            ),
        )
        self.entries.append(stored)
        return stored

    def publish(self, *entries: StoredActivity) -> None:
        self.head = entries[-1].entry.cursor
        self.publish_to(entries)

    def add(self, **fields: Any) -> StoredActivity:
        stored = self.store(**fields)
        self.publish(stored)
        return stored

    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]:
        found = [
            stored
            for stored in self.entries
            if stored.entry.cursor > max(after or 0, self.low)
            and (before is None or stored.entry.cursor < before)
            and (tenant is None or stored.tenant == tenant)
            and (container_id is None or stored.entry.container_id == container_id)
            and (types is None or stored.entry.type in types)
        ]
        page = (found[::-1] if newest_first else found)[:limit]
        if self.on_read is not None:
            await self.on_read()
        return page

    async def floor(self) -> int:
        return self.low


class FakeRepeats:
    """Remembers replies by request_id, as long as the test runs."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def run(
        self,
        principal: Principal,
        event: str,
        request_id: str | None,
        raw: dict[str, Any],
        call: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        if request_id is not None and request_id in self.kept:
            return self.kept[request_id]
        reply = await call()
        if request_id is not None:
            self.kept[request_id] = reply
        return reply


async def eventually(condition: Callable[[], Any]) -> None:
    """Until it holds, for what nobody tells us of."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    return eventually


class RecordingLog:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[tuple[str, BaseException]] = []
        self.notices: list[tuple[str, dict[str, Any]]] = []

    def log_socket_event(self, event: str, sid: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def log_error(self, error_id: str, error: BaseException, **fields: Any) -> None:
        self.errors.append((error_id, error))

    def log_notice(self, message: str, *, warning: bool = False, **fields: Any) -> None:
        self.notices.append((message, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


@asynccontextmanager
async def serve(tmp_path: Path, **overrides: Any) -> AsyncIterator[SimpleNamespace]:
    settings = Settings(state_dir=tmp_path, sockets_dir=Path("/tmp/fm"), **overrides)
    manager, stream, repeats, log = FakeManager(), FakeStream(), FakeRepeats(), RecordingLog()
    waker, reader, terminals = FakeWaker(manager), FakeReader(manager), FakeDesk()
    gateway = Gateway(
        settings,
        manager,
        stream,
        repeats,
        lambda principal: {"principal": principal.name, "tenant": principal.tenant, "contract": 1},
        log,
        SystemClock(),
        waker=waker,
        terminals=terminals,
        reader=reader,
    )
    stream.publish_to = gateway.publish_activity
    manager.on_change = gateway.publish_status

    async def ready() -> None:
        pass

    app = build_app(settings, ready=ready, describe=lambda: {"service": "flow-manager"}, metrics=gateway.metrics)
    gateway.attach(app)
    await gateway.open()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{port}",
            port=port,
            settings=settings,
            manager=manager,
            waker=waker,
            terminals=terminals,
            reader=reader,
            stream=stream,
            repeats=repeats,
            log=log,
            gateway=gateway,
            engine=gateway._server.eio,
        )
    finally:
        if manager.hold is not None:
            manager.hold.set()
        await gateway.close()
        await runner.cleanup()


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., Any]:
    """`async with serving(**settings) as service`."""
    return lambda **overrides: serve(tmp_path, **overrides)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    async with serve(tmp_path) as running:
        yield running


class Spy:
    """A python-socketio client that keeps what it was sent."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.got: list[tuple[str, Any]] = []
        self.refusals: list[Any] = []
        self._news = asyncio.Event()
        self.sio.on("*", self._keep)
        self.sio.on("connect_error", self._refused)

    async def _keep(self, event: str, data: Any = None) -> None:
        self.got.append((event, data))
        self._news.set()

    async def _refused(self, data: Any) -> None:
        self.refusals.append(data)

    def of(self, event: str) -> list[Any]:
        return [data for name, data in self.got if name == event]

    async def wait_for(self, event: str, count: int = 1) -> list[Any]:
        async with asyncio.timeout(DEADLINE):
            while len(self.of(event)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(event)

    async def call(self, event: str, data: Any = None) -> Any:
        return await self.sio.call(event, data, timeout=DEADLINE)


@asynccontextmanager
async def connected(url: str, transport: str = "websocket", **options: Any) -> AsyncIterator[Spy]:
    spy = Spy()
    await spy.sio.connect(url, transports=[transport], **options)
    try:
        await spy.wait_for("hello")
        yield spy
    finally:
        await spy.sio.disconnect()
        await spy.sio.eio.disconnect()


@pytest.fixture
def connect() -> Callable[..., Any]:
    """`async with connect(url, "polling", auth={…}) as client`."""
    return connected


@pytest.fixture
def spy() -> Spy:
    return Spy()


class Raw:
    """A bare WebSocket that speaks Engine.IO by hand."""

    def __init__(self, websocket: Any) -> None:
        self.ws = websocket

    async def send(self, text: str) -> None:
        await self.ws.send_str(text)

    async def receive(self) -> Any:
        """The next text that is not a ping; None once the connection is closed."""
        while True:
            message = await self.ws.receive(timeout=DEADLINE)
            if message.type.name != "TEXT":
                return None
            if message.data != "2":
                return message.data

    async def until(self, prefix: str) -> str:
        while True:
            text = await self.receive()
            assert text is not None, f"closed before {prefix!r} came"
            if text.startswith(prefix):
                return str(text)


@pytest.fixture
async def raw(service: SimpleNamespace) -> AsyncIterator[Callable[..., Any]]:
    """`await raw()`: a connected bare client; `connect=False` leaves CONNECT unsent."""
    import aiohttp

    opened: list[Any] = []
    async with aiohttp.ClientSession() as session:

        async def open_one(url: str = service.url, connect: bool = True) -> Raw:
            websocket = await session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0)
            opened.append(websocket)
            client = Raw(websocket)
            assert (await client.receive()).startswith("0{")
            if connect:
                await client.send("40")
                await client.until('42["hello"')
            return client

        yield open_one
        for websocket in opened:
            # A server that is gone already answers no close; nobody waits for it.
            websocket._response.close()
