"""The composition root: the only module that knows concrete classes. Start and stop order are on this one screen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from flow_manager import greeting
from flow_manager.activity.log import UserActivityLogger
from flow_manager.activity.redact import Masker
from flow_manager.activity.stream import ActivityStream
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.containers.code import CodeStore
from flow_manager.containers.conversation import Conversation
from flow_manager.containers.core import Core
from flow_manager.containers.leave import leave
from flow_manager.containers.manager import ContainerManager
from flow_manager.containers.outbox import Outbox
from flow_manager.containers.policy import Policy
from flow_manager.containers.readings import Readings
from flow_manager.containers.repeats import Repeats
from flow_manager.containers.table import FlowTable
from flow_manager.containers.terminals import Terminals
from flow_manager.containers.use import Uses
from flow_manager.contract.principal import Principal
from flow_manager.errors import SettingsRefused
from flow_manager.gateway.auth import check_open_mode
from flow_manager.gateway.server import Gateway
from flow_manager.idle.readiness import Prober
from flow_manager.idle.registry import IdleRegistry
from flow_manager.observability.system_log import SystemLogger, configure
from flow_manager.proxy.server import ProxyServer
from flow_manager.proxy.tcp import TcpRoutes
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.choose import choose_runtimes
from flow_manager.settings.models import Settings
from flow_manager.settings.token_file import with_token_file
from flow_manager.store.folder import StateFolder
from flow_manager.store.sql import SqlStore
from flow_manager.util.clock import Clock, SystemClock
from flow_manager.util.gc_tuning import tune_gc
from flow_manager.web.routes import build_app

# Of the shutdown's time, these shares are for what the flows are answering and for operations under way; the rest is for
# clients, flows and files.
RESPONSES_SHARE = 0.6
DRAIN_SHARE = 0.3
# Seconds of it that operations leave to what comes after them.
LEFT_OVER = 1.0
# A local process gets this long between TERM and KILL even when the shutdown is late, in seconds.
MIN_GRACE = 0.5


class Service:
    """One running flow manager. `async with Service(settings) as service:` starts and stops it.

    `runtimes` may be given (tests, embedding); else settings and what answers on this machine decide.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        runtimes: Mapping[str, Runtime] | None = None,
        clock: Clock | None = None,
        configure_log: bool = True,
    ) -> None:
        self.settings = settings
        self.instance = ""
        self.port = 0
        self.proxy_port = 0
        self.channel_url = ""
        self.default_runtime = ""
        self.summary: list[str] = []
        self.farewell: list[str] = []
        self._given = runtimes
        self._clock = clock or SystemClock()
        self._configure_log = configure_log
        self._runtimes: dict[str, Runtime] = {}
        self._core: Core | None = None
        self._deadline = 0.0
        self._undo: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://{greeting.shown(self.settings.host)}:{self.port}"

    @property
    def proxy_url(self) -> str:
        """Where the wake proxy listens; a request's Host says which flow is meant. Empty where it is switched off."""
        return f"http://{greeting.shown(self.settings.proxy_host)}:{self.proxy_port}" if self.proxy_port else ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """:raises SettingsRefused: with the setting and the remedy; nothing is left open then."""
        try:
            await self._start()
        except BaseException:
            with suppress(Exception):  # why it could not start is the one to tell
                await self._close_all()
            raise

    async def _start(self) -> None:
        self.settings = settings = with_token_file(self.settings)
        clock = self._clock
        check_open_mode(settings)
        folder = StateFolder(settings.state_dir)
        folder.open()
        self._undo.append(folder.close)
        self.instance = folder.instance(settings.instance)

        masker = Masker()
        for secret in settings.activity.secrets:
            masker.add_secret(secret)
        log = configure(settings.log, masker) if self._configure_log else SystemLogger()
        self._undo.append(log.close)

        store = SqlStore(folder.path / "flow-manager.db")
        await store.open()
        self._undo.append(store.close)
        stream = ActivityStream(store.activity, settings.activity, clock, masker=masker, log=log)
        await stream.open()
        self._undo.append(stream.close)
        activity = UserActivityLogger(stream, clock)

        await self._open_runtimes()

        conversation = Conversation()
        channel = SocketCommunicationHandler(
            settings.sockets_dir.absolute(), settings.channel, conversation, clock, secrets_dir=folder.path / "channel"
        )
        await channel.open()
        self._undo.append(channel.close)
        self.channel_url = channel.remote_url

        core = Core(
            settings=settings,
            runtimes=self._runtimes,
            default_runtime=self.default_runtime,
            store=store.flows,
            channel=channel,
            activity=activity,
            masker=masker,
            log=log,
            clock=clock,
            policy=Policy(
                settings.policy,
                instance=self.instance,
                private=(folder.path, settings.sockets_dir.absolute()),
            ),
            code=CodeStore(folder.path / "code"),
            table=FlowTable(self._runtimes[self.default_runtime].kind),
        )
        self._core = core
        conversation.attach(core)
        registry = IdleRegistry(core, prober=Prober(clock))
        await registry.open()
        end_watching = _once(registry.close)
        self._undo.append(end_watching)
        manager = ContainerManager(core)
        await manager.open()
        # Not before: a flow that is not known yet would be turned away.
        channel.welcome_remote()
        self._undo.append(lambda: manager.close(self._drain_time()))
        core.uses = Uses(registry.watcher)
        core.terminals = terminals = Terminals(core)
        end_terminals = _once(terminals.close)
        self._undo.append(end_terminals)
        core.outbox = outbox = Outbox(core, store.outbox, registry.watcher)
        await outbox.open()
        end_outbox = _once(outbox.close)
        self._undo.append(end_outbox)

        readings = Readings(core)
        end_readings = _once(readings.close)
        self._undo.append(end_readings)

        def describe(principal: Principal) -> dict[str, Any]:
            return greeting.hello(principal, instance=self.instance, stream=stream.stream, runtimes=self._runtimes)

        gateway = Gateway(
            settings,
            manager,
            stream,
            Repeats(store.replies, clock, log),
            describe=describe,
            log=log,
            clock=clock,
            waker=registry,
            terminals=terminals,
            reader=readings,
        )
        stream.listen(gateway.publish_activity)
        manager.on_status(gateway.publish_status)
        conversation.on_message(gateway.publish_message)

        async def ready() -> None:
            await store.ping()
            await self._runtimes[self.default_runtime].ping()

        app = build_app(settings, ready=ready, describe=lambda: greeting.about(self.instance), metrics=gateway.metrics)
        gateway.attach(app)
        await gateway.open()

        await self._listen(app)
        proxy = ProxyServer(settings, registry, log, clock, logs=core.last_lines)
        tcp = TcpRoutes(settings, registry, log)
        # The end goes from the last line to the first: nothing comes in any more, nothing wakes, what is under way ends,
        # clients are told, the door closes.
        self._undo.append(end_readings)
        self._undo.append(gateway.close)
        self._undo.append(end_terminals)
        self._undo.append(lambda: manager.close(self._drain_time()))
        self._undo.append(end_outbox)
        self._undo.append(end_watching)
        self._undo.append(tcp.close)
        await tcp.open()
        if settings.proxy.enabled:
            self._undo.append(lambda: proxy.close(settings.shutdown_timeout * RESPONSES_SHARE))
            await proxy.open()
            self.proxy_port = proxy.port
        tune_gc()
        self.summary = greeting.summary(
            settings,
            url=self.url,
            instance=self.instance,
            runtime=self.default_runtime,
            kind=self._runtimes[self.default_runtime].kind,
            proxy_port=self.proxy_port,
            channel_url=self.channel_url,
        )

    async def stop(self) -> None:
        """End everything in order, within `shutdown_timeout`; Docker flows go on, process flows are stopped, and `farewell` says so."""
        self._deadline = self._clock.monotonic() + self.settings.shutdown_timeout
        await self._close_all()

    async def _close_all(self) -> None:
        """Every step, also after one that failed: what it left open (the store's thread) would keep the process for ever.

        :raises Exception: the first that a step raised, when all is closed; it names the later ones.
        """
        failed: Exception | None = None
        while self._undo:
            step = self._undo.pop()
            try:
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:
                if failed is None:
                    failed = error
                else:
                    failed.add_note(f"then another step failed, too: {error!r}")
        if failed is not None:
            raise failed

    async def _open_runtimes(self) -> None:
        if self._given is not None:
            self._runtimes = dict(self._given)
            self.default_runtime = self.settings.runtime or next(iter(self._runtimes))
        else:
            self._runtimes, self.default_runtime = await choose_runtimes(self.settings, instance=self.instance)
        if self.default_runtime not in self._runtimes:
            known = ", ".join(sorted(self._runtimes))
            raise SettingsRefused(f"runtime: no runtime '{self.default_runtime}' is configured; there are: {known}")
        for runtime in self._runtimes.values():
            await runtime.open()
            self._undo.append(lambda runtime=runtime: self._leave(runtime))

    async def _leave(self, runtime: Runtime) -> None:
        if self._core is not None:
            line = await leave(self._core, runtime, grace=max(MIN_GRACE, self._time_left() - 1.0))
            if line:
                self.farewell.append(line)
        await runtime.close()

    def _time_left(self) -> float:
        """Seconds of the shutdown's time that are left; what each step may use follows from it, so that they never add up."""
        return max(0.0, self._deadline - self._clock.monotonic())

    def _drain_time(self) -> float:
        return min(self.settings.shutdown_timeout * DRAIN_SHARE, max(0.1, self._time_left() - LEFT_OVER))

    async def _listen(self, app: web.Application) -> None:
        # Nothing that comes in is unpacked: 190 KB of gzip are 200 MB, and hold everybody up, also when nobody reads them.
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0, auto_decompress=False)
        await runner.setup()
        site = web.TCPSite(runner, self.settings.host, self.settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise SettingsRefused(
                f"port: {self.settings.host}:{self.settings.port} can't be listened on ({error.strerror}); "
                "give another with --port, or 0 for any free one"
            ) from None
        self._undo.append(runner.cleanup)
        server = site._server
        sockets: list[socket.socket] = list(getattr(server, "sockets", []))
        self.port = sockets[0].getsockname()[1]


def _once(step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """For a step that stands twice in the order of the end: where a failed start needs it, and where a good one does."""
    done = False

    async def run() -> None:
        nonlocal done
        if not done:
            done = True
            await step()

    return run
