"""TCP routes over the real registry: flows of each runtime fall asleep and are woken by a connection."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flow_manager.activity.log import UserActivityLogger
from flow_manager.activity.stream import ActivityStream
from flow_manager.containers.manager import ContainerManager
from flow_manager.contract.principal import LOCAL
from flow_manager.contract.requests import CreateContainer, DeleteContainer, StopContainer
from flow_manager.idle.readiness import Prober
from flow_manager.idle.registry import IdleRegistry
from flow_manager.idle.watcher import Watcher
from flow_manager.proxy.tcp import TcpRoutes
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import LimitSettings, Settings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.testing import MemoryRuntime, eventually
from flow_manager.testing.core import open_core
from flow_manager.util.ids import new_flow_id

# A program that takes a while before it listens, as real ones do.
SLOW_ECHO = """
import os, socketserver, time
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
time.sleep(0.3)
Server(("127.0.0.1", int(os.environ["PORT"])), Echo).serve_forever()
"""
IDLE = 0.6
PATIENCE = 20.0


@dataclass
class House:
    manager: ContainerManager
    registry: IdleRegistry
    routes: TcpRoutes
    stream: ActivityStream
    activity: UserActivityLogger

    async def create(self, **config: Any) -> Watcher:
        idle = {"idle_timeout": IDLE, "stop_timeout": 2, "wake_timeout": 15, **config.pop("idle", {})}
        info = await self.manager.create_container(
            LOCAL, CreateContainer.model_validate({"name": "db", "idle": idle, **config})
        )
        return self.registry.resolve(LOCAL, info.id)

    async def said(self, type: str) -> int:
        """How many entries of a type there are by now. Entries are stored in order and in batches: the last one is waited for."""
        await self.activity.log_user_activity("counted", "the test counts entries")
        return sum(item.entry.type == type for item in await self.stream.read(limit=1000))

    async def talk(self, text: bytes) -> bytes:
        """One connection: say it, hear as much, leave."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(*self.routes.addresses[0])
            try:
                writer.write(text)
                return await reader.readexactly(len(text))
            finally:
                writer.close()
                await writer.wait_closed()


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="fm-"))  # pytest's own folders are too long for sockets
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def opened(root: Path, runtime: Runtime, port: int, *, instance: str = "i") -> AsyncIterator[House]:
    route = {"listen": "127.0.0.1:0", "container": "db", "port": port}
    settings = Settings.model_validate({"state_dir": root / "state", "sockets_dir": root / "s", "tcp_routes": [route]})
    await runtime.open()
    try:
        async with open_core(settings, runtime, instance=instance) as base:
            core = base.core
            manager = ContainerManager(core)
            registry = IdleRegistry(core, prober=Prober(core.clock))
            await registry.open()
            await manager.open()
            routes = TcpRoutes(settings, registry, core.log)
            try:
                await routes.open()
                yield House(manager, registry, routes, base.stream, core.activity)
            finally:
                await routes.close()
                for watcher in registry.watchers():
                    await manager.delete_container(LOCAL, DeleteContainer(container_id=watcher.id, force=True))
                await registry.close()
                await manager.close(2.0)
    finally:
        await runtime.close()


@pytest.fixture
async def memory(root: Path) -> AsyncIterator[House]:
    runtime = MemoryRuntime(instance="i")
    async with opened(root, runtime, 7) as house:
        yield house
    await runtime.engine.close()


@pytest.fixture
async def process(root: Path) -> AsyncIterator[House]:
    runtime = ProcessProvider(
        "process",
        RuntimeSettings(kind="process"),
        instance="i",
        limits=LimitSettings(),
        sockets_dir=root / "s",
        state_dir=root / "state",
    )
    async with opened(root, runtime, 7) as house:
        yield house


@pytest.fixture
async def docker(root: Path, docker_engine: str) -> AsyncIterator[House]:
    instance = f"t-{new_flow_id()}"
    runtime = DockerProvider(
        "docker",
        RuntimeSettings(kind="docker", url=docker_engine),
        instance=instance,
        limits=LimitSettings(),
        sockets_dir=root / "s",
        state_dir=root / "state",
    )
    async with opened(root, runtime, 7, instance=instance) as house:
        yield house


def asleep(watcher: Watcher) -> Callable[[], bool]:
    return lambda: watcher.state == "napping"


# --- memory -----------------------------------------------------------------------------------------------------------


async def test_a_hundred_first_connections_make_one_start(memory: House) -> None:
    watcher = await memory.create(image="memory", command=["serve"], ports={"7": 0})

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(*memory.routes.addresses[0])
        try:
            return await reader.readline()
        finally:
            writer.close()

    async with asyncio.timeout(PATIENCE):
        assert set(await asyncio.gather(*(ask() for _ in range(100)))) == {b"served\n"}
    assert await memory.said("woke") == 1
    assert watcher.state == "ready"


async def test_a_flow_that_somebody_stopped_is_not_woken_by_a_connection(memory: House) -> None:
    watcher = await memory.create(image="memory", command=["serve"], ports={"7": 0}, start=True)
    await memory.manager.stop_container(LOCAL, StopContainer(container_id=watcher.id))
    reader, writer = await asyncio.open_connection(*memory.routes.addresses[0])
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert watcher.state == "napping"


async def test_a_flow_that_dies_while_it_starts_ends_its_waiters_at_once(memory: House) -> None:
    await memory.create(image="memory", command=["die-soon", "3"], ports={"7": 0})
    reader, writer = await asyncio.open_connection(*memory.routes.addresses[0])
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert await memory.said("wake_failed") == 1


# --- processes --------------------------------------------------------------------------------------------------------


def slow_echo(**changes: Any) -> dict[str, Any]:
    return {"image": "local", "command": [sys.executable, "-c", SLOW_ECHO], "ports": {"7": 0}, **changes}


async def test_a_process_that_sleeps_is_woken_by_tcp_and_gets_the_first_bytes(process: House) -> None:
    watcher = await process.create(**slow_echo())
    assert await process.talk(b"first") == b"first"
    await eventually(asleep(watcher), 10)
    assert await process.talk(b"second") == b"second"
    assert await process.said("woke") == 2


async def test_a_session_in_use_keeps_its_flow_awake_and_a_silent_one_does_not(process: House) -> None:
    watcher = await process.create(**slow_echo())
    reader, writer = await asyncio.open_connection(*process.routes.addresses[0])
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(PATIENCE):
        while loop.time() - begun < 4 * IDLE:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert watcher.state == "ready"
            await asyncio.sleep(0.1)
        assert [lease.kind for lease in watcher.explain().leases] == ["tcp"]
        assert await reader.read() == b""  # silent now: the flow went to sleep, and its end is passed on
    writer.close()
    await eventually(asleep(watcher), 10)


async def test_bytes_wake_a_paused_process_on_the_connection_that_is_still_open(process: House) -> None:
    watcher = await process.create(**slow_echo(idle={"stop_method": "pause"}))
    reader, writer = await asyncio.open_connection(*process.routes.addresses[0])
    async with asyncio.timeout(PATIENCE):
        for said in (b"one", b"two", b"three"):
            writer.write(said)
            assert await reader.readexactly(len(said)) == said
            await eventually(asleep(watcher), 10)
    writer.close()


async def test_a_process_that_never_listens_ends_its_waiters_after_the_wake_timeout(process: House) -> None:
    watcher = await process.create(image="local", command=["sleep", "60"], ports={"7": 0}, idle={"wake_timeout": 0.5})
    reader, writer = await asyncio.open_connection(*process.routes.addresses[0])
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert watcher.error is not None
    assert "TCP :7" in watcher.error


# --- Docker -----------------------------------------------------------------------------------------------------------


def nc_echo(**changes: Any) -> dict[str, Any]:
    from tests.engine import BUSYBOX_IMAGE

    serve = "trap 'exit 0' TERM; sleep 0.3; nc -ll -p 7 -e cat & wait $!"
    return {"image": BUSYBOX_IMAGE, "command": ["sh", "-c", serve], "port": 7, **changes}


@pytest.mark.docker
@pytest.mark.parametrize("published", [False, True], ids=["by its own address", "published too"])
async def test_a_container_that_sleeps_is_woken_by_tcp_and_gets_the_first_bytes(docker: House, published: bool) -> None:
    watcher = await docker.create(**nc_echo(ports={"7": 0} if published else {}))
    assert await docker.talk(b"first") == b"first"
    assert watcher.upstream is not None
    assert watcher.upstream[0] in (watcher.entry.observation.addresses if watcher.entry.observation else ())
    await eventually(asleep(watcher), 15)
    assert await docker.talk(b"second") == b"second"
    assert await docker.said("woke") == 2


@pytest.mark.docker
async def test_behind_the_engines_own_forwarder_nothing_is_lost_while_the_program_starts(
    docker: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no route to containers: only the published port is known, and docker-proxy accepts at once."""
    forwarders = "flow_manager.runtimes.docker.observe.addresses_of"
    monkeypatch.setattr(forwarders, lambda _: ())
    watcher = await docker.create(**nc_echo(ports={"7": 0}))
    for said in (b"first", b"second"):
        assert await docker.talk(said) == said
        assert watcher.upstream is not None
        assert watcher.upstream[0] == "127.0.0.1"
        await eventually(asleep(watcher), 15)
