"""The whole way from the proxy port to a process flow: real store, runtime, watchers, probes and proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_manager.activity.log import UserActivityLogger
from flow_manager.activity.redact import Masker
from flow_manager.activity.stream import ActivityStream
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.containers.code import CodeStore
from flow_manager.containers.conversation import Conversation
from flow_manager.containers.core import Core
from flow_manager.containers.manager import ContainerManager
from flow_manager.containers.policy import Policy
from flow_manager.containers.table import FlowTable
from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL
from flow_manager.idle.readiness import Prober
from flow_manager.idle.registry import IdleRegistry
from flow_manager.idle.watcher import Watcher
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.server import ProxyServer
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import RuntimeSettings, Settings
from flow_manager.store.sql import SqlStore
from flow_manager.util.clock import SystemClock


@dataclass
class House:
    manager: ContainerManager
    registry: IdleRegistry
    port: int

    async def create(self, **config: Any) -> Watcher:
        request = requests.CreateContainer.model_validate({"image": "local", **config})
        info = await self.manager.create_container(LOCAL, request)
        watcher = self.registry.watcher(info.id)
        assert watcher is not None
        return watcher

    def url(self, watcher: Watcher, path: str = "/") -> str:
        return f"http://{watcher.name}.localhost:{self.port}{path}"


@asynccontextmanager
async def open_house(root: Path) -> AsyncIterator[House]:
    """Everything is ended on leaving, the flows' processes too."""
    settings = Settings(state_dir=root / "state", sockets_dir=root / "s", proxy_port=0)
    settings.state_dir.mkdir()
    clock, masker, log = SystemClock(), Masker(), SystemLogger(level="ERROR")
    async with AsyncExitStack() as stack:
        store = SqlStore(settings.state_dir / "db")
        await store.open()
        stack.push_async_callback(store.close)
        stream = ActivityStream(store.activity, settings.activity, clock, masker=masker, log=log)
        await stream.open()
        stack.push_async_callback(stream.close)
        runtime = ProcessProvider(
            "process",
            RuntimeSettings(),
            instance="i",
            limits=settings.limits,
            sockets_dir=settings.sockets_dir,
            state_dir=settings.state_dir,
        )
        await runtime.open()
        stack.push_async_callback(runtime.close)
        stack.push_async_callback(runtime.stop_all)
        conversation = Conversation()
        channel = SocketCommunicationHandler(settings.sockets_dir, settings.channel, conversation, clock)
        await channel.open()
        stack.push_async_callback(channel.close)
        core = Core(
            settings=settings,
            runtimes={"process": runtime},
            default_runtime="process",
            store=store.flows,
            channel=channel,
            activity=UserActivityLogger(stream, clock),
            masker=masker,
            log=log,
            clock=clock,
            policy=Policy(settings.policy, instance="i", private=()),
            code=CodeStore(settings.state_dir / "code"),
            table=FlowTable("process"),
        )
        conversation.attach(core)
        manager, registry = ContainerManager(core), IdleRegistry(core, prober=Prober(clock))
        await registry.open()
        await manager.open()
        stack.push_async_callback(manager.close, 2.0)
        stack.push_async_callback(registry.close)
        server = ProxyServer(settings, registry, log, clock)
        await server.open()
        stack.push_async_callback(server.close)
        yield House(manager, registry, server.port)
