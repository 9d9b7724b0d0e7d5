"""Whole services on each runtime, driven by a real Socket.IO client."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import socketio

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 20.0


class Client:
    """A plain python-socketio client that remembers every server event."""

    def __init__(self, transports: list[str] | None = None) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.seen: list[tuple[str, Any]] = []
        self._changed = asyncio.Event()
        self._transports = transports
        self.sio.on("*", self._on_any)

    async def _on_any(self, event: str, data: Any = None) -> None:
        self.seen.append((event, data))
        self._changed.set()

    async def connect(self, url: str, token: str | None = None) -> Client:
        await self.sio.connect(url, auth={"token": token} if token else None, transports=self._transports)
        return self

    async def close(self) -> None:
        await self.sio.disconnect()
        # aiohttp's connector closes its sockets in the next turns of the loop.
        await asyncio.sleep(0.01)

    async def call(self, event: str, **data: Any) -> dict[str, Any]:
        reply: dict[str, Any] = await self.sio.call(event, data, timeout=60)
        return reply

    async def ok(self, event: str, **data: Any) -> Any:
        reply = await self.call(event, **data)
        assert reply["error"] is False, reply
        return reply["data"]

    async def refused(self, event: str, **data: Any) -> dict[str, Any]:
        reply = await self.call(event, **data)
        assert reply["error"] is True, reply
        return reply

    def events(self, name: str) -> list[Any]:
        return [data for event, data in self.seen if event == name]

    def activity(self) -> list[str]:
        return [entry["type"] for entry in self.events("activity")]

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (value := condition()):
                self._changed.clear()
                if value := condition():
                    return value
                await self._changed.wait()
        return value

    async def connected_flow(self, flow_id: str) -> None:
        """Wait until the flow's channel is connected; needs a subscription to activity."""
        async with asyncio.timeout(PATIENCE):
            while not (await self.ok("get_status", container_id=flow_id))["socket_connected"]:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.5)
                except TimeoutError:
                    continue


@dataclass
class Platform:
    """A runtime to try the service on, and how to ask it for an echo flow."""

    kind: str
    root: Path
    echo: dict[str, Any]
    sleeper: dict[str, Any]
    missing_image: dict[str, Any]
    runtimes: dict[str, RuntimeSettings] = field(default_factory=dict)

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "port": 0,
            "proxy_port": 0,
            # What somebody else runs on this engine is none of a test's business.
            "adopt": False,
            "runtime": self.kind,
            "state_dir": self.root / "state",
            "sockets_dir": self.root / "s",
            "policy": {"code_roots": [str(self.root / "code")], "volume_roots": [str(self.root / "volumes")]},
            "runtimes": self.runtimes,
            "log": {"level": "WARNING"},
            **changes,
        }
        return Settings.model_validate(values)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for sockets: pytest's own are too long."""
    path = Path(tempfile.mkdtemp(prefix="fm-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["memory", "process", pytest.param("docker", marks=pytest.mark.docker)])
def platform(request: pytest.FixtureRequest, short_folder: Path) -> Platform:
    return make_platform(request, request.param, short_folder)


@pytest.fixture
def docker_platform(request: pytest.FixtureRequest, short_folder: Path) -> Platform:
    return make_platform(request, "docker", short_folder)


@pytest.fixture
def process_platform(request: pytest.FixtureRequest, short_folder: Path) -> Platform:
    return make_platform(request, "process", short_folder)


@pytest.fixture
def memory_platform(request: pytest.FixtureRequest, short_folder: Path) -> Platform:
    return make_platform(request, "memory", short_folder)


def make_platform(request: pytest.FixtureRequest, kind: str, root: Path) -> Platform:
    code = root / "code" / "echo"
    code.mkdir(parents=True)
    shutil.copy(REPOSITORY / "examples" / "echo.py", code / "echo.py")
    shutil.copy(REPOSITORY / "flow_sdk" / "__init__.py", code / "flow_sdk.py")
    if kind == "memory":
        return Platform(
            kind,
            root,
            echo={"image": "memory", "command": ["echo"]},
            sleeper={"image": "memory", "command": ["sleep"]},
            missing_image={"image": "no-such-image"},
        )
    if kind == "process":
        # Its shells read start-up files from there: those of the person who runs the tests may do anything, or never end.
        request.getfixturevalue("monkeypatch").setenv("HOME", str(root))
        return Platform(
            kind,
            root,
            echo={"image": "local", "command": [sys.executable, "echo.py"], "code_path": str(code)},
            sleeper={"image": "local", "command": ["sleep", "600"]},
            missing_image={"image": "no-such-image", "command": ["true"]},
        )
    host = request.getfixturevalue("docker_engine")
    from tests.engine import BUSYBOX_IMAGE, PYTHON_IMAGE

    return Platform(
        kind,
        root,
        echo={"image": PYTHON_IMAGE, "command": ["python3", "/flow/echo.py"], "code_path": str(code)},
        sleeper={"image": BUSYBOX_IMAGE, "command": ["sleep", "600"]},
        missing_image={"image": "flow-manager-test/no-such-image:1"},
        runtimes={"docker": RuntimeSettings(url=host)},
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    async with Service(settings) as service:
        yield service


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """`await connect(service, transports=…, token=…)` gives a connected Client; all are closed at the end."""
    async with AsyncExitStack() as stack:

        async def make(service: Service, *, token: str | None = None, transports: list[str] | None = None) -> Client:
            client = Client(transports)
            await client.connect(service.url, token)
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
async def started() -> AsyncIterator[Callable[..., Any]]:
    """`await started(settings)` gives a Service that the test may stop itself; it is stopped in any case, also twice."""
    async with AsyncExitStack() as stack:

        async def make(settings: Settings) -> Service:
            service = Service(settings)
            stack.push_async_callback(service.stop)
            await service.start()
            return service

        yield make
