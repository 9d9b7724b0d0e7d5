"""A flow that wakes as a test wants it, and a request that remembers what it was answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flow_manager.contract.models import DesiredState, FlowState, IdlePolicy
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import FlowManagerError
from flow_manager.idle.history import WakeLog
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.context import SlowContext
from flow_manager.settings.models import ProxySettings
from flow_manager.testing import FakeClock

AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeLease:
    flow: FakeFlow
    kind: LeaseKind
    holder: str

    def release(self) -> None:
        if self in self.flow.leases:
            self.flow.leases.remove(self)

    def touch(self) -> None: ...


@dataclass(eq=False)
class FakeFlow:
    """`finish()` ends the wake under way, well or with an error; `wakes` counts attempts, `joined` who waits."""

    id: str = "aaaaaaaaaaaa"
    name: str = "web"
    tenant: str = "default"
    state: FlowState = "napping"
    policy: IdlePolicy | None = field(default_factory=IdlePolicy)
    desired: DesiredState = "running"
    hosts: tuple[str, ...] = ()
    upstream: tuple[str, int] | None = None
    expected_start: float | None = 4.0
    error: str | None = None
    failure: FlowManagerError | None = None
    last_ready: datetime | None = None
    seconds: int = 4
    clock: Any = field(default_factory=FakeClock)
    leases: list[FakeLease] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    wakes: int = 0
    joined: int = 0
    asleep_again: int = 0
    listens: tuple[str, int] = ("127.0.0.1", 80)
    attempt: asyncio.Future[None] | None = None
    held_back: Exception | None = None
    on_begin: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.history = WakeLog(self.clock)

    def use(self, kind: LeaseKind, holder: str) -> FakeLease:
        lease = FakeLease(self, kind, holder)
        self.leases.append(lease)
        return lease

    def ready_now(self) -> bool:
        return self.state == "ready" and self.upstream is not None

    def retry_after(self) -> int:
        return self.seconds

    def begin_wake(self, *, reason: str) -> None:
        self.reasons.append(reason)
        if self.state == "ready":
            return
        if self.held_back is not None:
            raise self.held_back
        if self.attempt is None or self.attempt.done():
            self.wakes += 1
            self.attempt = asyncio.get_running_loop().create_future()
            self.attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.state = "starting"
            self.error = None
            self.history.clear()
            self.history.add("starting", f"starting {self.name}")
            self.on_begin()

    async def wake(self, *, reason: str, by_request: bool = True) -> None:
        self.begin_wake(reason=reason)
        if self.attempt is None:
            return
        self.joined += 1
        try:
            await asyncio.shield(self.attempt)
        finally:
            self.joined -= 1
        if self.asleep_again:
            self.asleep_again -= 1
            self.state = "napping"

    def finish(self, error: Exception | None = None) -> None:
        assert self.attempt is not None
        if error is None:
            self.be_ready()
            self.history.add("ready", f"{self.name} is ready")
            self.attempt.set_result(None)
        else:
            self.state, self.error = "error", str(error)
            self.failure = error if isinstance(error, FlowManagerError) else None
            self.history.add("error", str(error), error=getattr(error, "code", None))
            self.attempt.set_exception(error)

    def be_ready(self) -> None:
        self.state, self.upstream, self.last_ready = "ready", self.listens, AT


class FakeRequest:
    """As `HeldRequest`. `refusals` are raised by that many forwards before one succeeds."""

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Sequence[tuple[str, str]] = (),
        *,
        host: str = "web.localhost",
        refusals: Sequence[Exception] = (),
    ) -> None:
        self.method = method.encode()
        self.target = target.encode()
        self.headers = [(b"Host", host.encode()), *((name.encode(), value.encode()) for name, value in headers)]
        self.host = host
        self.peer = "192.0.2.1"
        self.gone = asyncio.Event()
        self.status: int | None = None
        self.sent: list[tuple[bytes, bytes]] = []
        self.content = b""
        self.streaming = False
        self.ended = False
        self.forwarded: list[bool] = []
        self.refusals = list(refusals)
        self.wrote = asyncio.Condition()
        self.stuck: asyncio.Event | None = None

    @property
    def answered(self) -> bool:
        return self.status is not None

    def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        assert not self.answered, "answered twice"
        self.status, self.sent, self.content, self.ended = status, list(headers), body, True

    def start_stream(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert not self.answered, "answered twice"
        self.status, self.sent, self.streaming = status, list(headers), True

    def write(self, data: bytes) -> None:
        assert self.streaming and not self.ended
        self.content += data

    async def drain(self) -> None:
        if self.stuck is not None:
            await self.stuck.wait()
        async with self.wrote:
            self.wrote.notify_all()

    def end(self) -> None:
        assert self.streaming
        self.ended = True

    async def forward(self, watcher: FakeFlow, *, cold_start: bool = True) -> None:
        assert watcher.ready_now(), "forwarded to a flow that isn't ready"
        if self.refusals:
            raise self.refusals.pop(0)
        self.forwarded.append(cold_start)

    # --- what a test looks at

    def header(self, name: str) -> str | None:
        found = [value.decode() for key, value in self.sent if key.decode().lower() == name.lower()]
        assert len(found) <= 1, f"{name} was sent twice"
        return found[0] if found else None

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def text(self) -> str:
        return self.content.decode()


class FakeRegistry(dict[str, FakeFlow]):
    """Flows by id; `context(…)` for the slow path."""

    def __init__(self, *flows: FakeFlow) -> None:
        super().__init__({flow.id: flow for flow in flows})

    generation = 1

    def watchers(self) -> list[FakeFlow]:
        return list(self.values())

    def watcher(self, flow_id: str) -> FakeFlow | None:
        return self.get(flow_id)

    def context(self, *, open_mode: bool = True, logs: Any = None, **settings: Any) -> SlowContext:
        clock = next(iter(self.values())).clock if self else FakeClock()
        return SlowContext.make(
            ProxySettings(**settings), clock=clock, log=SystemLogger(), find=self.get, open_mode=open_mode, logs=logs
        )
