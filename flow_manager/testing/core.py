"""What a ContainerManager stands on, opened in one line: a store, the activity log and the flows' channel, all real.

A module of its own, not imported by the package: it brings the service's whole inside with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from flow_manager.activity.log import UserActivityLogger
from flow_manager.activity.redact import Masker
from flow_manager.activity.stream import ActivityStream
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.containers.code import CodeStore
from flow_manager.containers.conversation import Conversation
from flow_manager.containers.core import Core
from flow_manager.containers.policy import Policy
from flow_manager.containers.table import FlowTable
from flow_manager.observability.system_log import SystemLogger
from flow_manager.runtimes.base import Runtime
from flow_manager.settings.models import Settings
from flow_manager.store.sql import SqlStore
from flow_manager.util.clock import Clock, SystemClock


@dataclass(frozen=True)
class OpenCore:
    core: Core
    store: SqlStore
    stream: ActivityStream


@asynccontextmanager
async def open_core(
    settings: Settings, *runtimes: Runtime, clock: Clock | None = None, instance: str = "i"
) -> AsyncIterator[OpenCore]:
    """A core over these runtimes, which the caller opens and closes; the first is the default. `instance` is theirs.

    The caller builds what acts on it (`ContainerManager(core)`, `IdleRegistry(core, …)`), and closes that first.
    """
    settings.state_dir.mkdir(exist_ok=True)
    clock, masker, log = clock or SystemClock(), Masker(), SystemLogger(level="ERROR")
    store = SqlStore(settings.state_dir / "db")
    await store.open()
    stream = ActivityStream(store.activity, settings.activity, clock, masker=masker, log=log)
    await stream.open()
    conversation = Conversation()
    channel = SocketCommunicationHandler(settings.sockets_dir, settings.channel, conversation, clock)
    await channel.open()
    core = Core(
        settings=settings,
        runtimes={runtime.name: runtime for runtime in runtimes},
        default_runtime=runtimes[0].name,
        store=store.flows,
        channel=channel,
        activity=UserActivityLogger(stream, clock),
        masker=masker,
        log=log,
        clock=clock,
        policy=Policy(settings.policy, instance=instance, private=()),
        code=CodeStore(settings.state_dir / "code"),
        table=FlowTable(runtimes[0].kind),
    )
    conversation.attach(core)
    try:
        yield OpenCore(core, store, stream)
    finally:
        await channel.close()
        await stream.close()
        await store.close()
