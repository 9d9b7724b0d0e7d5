"""The proxy port: listens, admits as many as there are descriptors for, and ends within seconds leaving nothing."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import cast

from flow_manager.errors import SettingsRefused
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.context import LogTail, SlowContext
from flow_manager.proxy.downstream import ClientConnection
from flow_manager.proxy.edge import Edge
from flow_manager.proxy.headers import Trust, own_response_bytes
from flow_manager.proxy.pool import Pool
from flow_manager.proxy.problems import Problem
from flow_manager.proxy.routing import Routes
from flow_manager.proxy.watched import FlowTable
from flow_manager.settings.models import Settings
from flow_manager.util.clock import Clock

# Descriptors left for everything else: out of them, asyncio logs a trace for each attempt and nothing is accepted any more.
SPARE_DESCRIPTORS = 128
BACKLOG = 1024
# Responses under way have this long when the proxy closes, where nobody says otherwise.
CLOSE_SECONDS = 5.0
# A client that vanished without a word is found after two minutes: it may be in a stream that says nothing for hours.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class ProxyServer:
    """`open`, `port`, `close`. `logs` gives a flow's last log lines for its page, where settings allow that."""

    def __init__(
        self, settings: Settings, registry: FlowTable, log: SystemLogger, clock: Clock, *, logs: LogTail | None = None
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._log = log
        self._clock = clock
        self._logs = logs
        self._edge: Edge | None = None
        self._server: asyncio.Server | None = None
        self._most = settings.proxy.max_connections
        self._descriptors = 0
        self.port = 0

    async def open(self) -> None:
        """:raises SettingsRefused: the address can't be listened on, or a trusted network isn't one."""
        settings = self._settings
        try:
            trust = Trust(settings.proxy.trusted)
        except ValueError as error:
            raise SettingsRefused(f"proxy.trusted: {error}") from None
        context = SlowContext.make(
            settings.proxy,
            clock=self._clock,
            log=self._log,
            find=self._registry.watcher,
            open_mode=not settings.auth.tokens,
            logs=self._logs,
        )
        self._edge = Edge(
            routes=Routes(self._registry, settings.proxy.domains),
            pool=Pool(),
            trust=trust,
            context=context,
            log=self._log,
            clock=self._clock,
        )
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptors = soft if soft != resource.RLIM_INFINITY else 1 << 30
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._made, settings.proxy_host, settings.proxy_port, backlog=BACKLOG, start_serving=False
            )
        except OSError as error:
            raise SettingsRefused(
                f"proxy_port: {settings.proxy_host}:{settings.proxy_port} can't be listened on ({error.strerror}); "
                "give another with --proxy-port, or 0 for any free one"
            ) from None
        for listener in self._server.sockets:
            # Accepted sockets inherit these on Linux.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                listener.setsockopt(socket.IPPROTO_TCP, option, value)
        self.port = self._server.sockets[0].getsockname()[1]
        await self._server.start_serving()

    async def close(self, patience: float = CLOSE_SECONDS) -> None:
        """At once nothing new comes in; what is being answered has `patience` seconds to end, streams of events and tunnels,
        which never do, have none. All of it is done within a second more, whatever clients and flows do. May be called twice.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()
        edge, self._edge = self._edge, None
        if edge is not None:
            await edge.close(patience)

    @property
    def connections(self) -> int:
        return len(self._edge.connections) if self._edge is not None else 0

    def _made(self) -> asyncio.BaseProtocol:
        assert self._edge is not None
        return _Admission(self._edge, self._most, self._descriptors)


class _Admission(ClientConnection):
    """A client's connection that is turned away when there are too many."""

    __slots__ = ("_descriptors", "_most")

    def __init__(self, edge: Edge, most: int, descriptors: int) -> None:
        super().__init__(edge)
        self._most = most
        self._descriptors = descriptors

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        edge = self.edge
        handle = transport.get_extra_info("socket")
        # The kernel gives the lowest free number, so this one tells how many are taken, by whomever.
        taken = handle.fileno() if handle is not None else 0
        if edge.closing or len(edge.connections) >= self._most or taken >= self._descriptors - SPARE_DESCRIPTORS:
            edge.warn("the proxy turned clients away: too many connections", connections=len(edge.connections))
            self._turn_away(
                cast(asyncio.Transport, transport), politely=taken < self._descriptors - SPARE_DESCRIPTORS // 2
            )
            return
        super().connection_made(transport)

    def _turn_away(self, transport: asyncio.Transport, *, politely: bool) -> None:
        self._transport = transport
        self.edge.add(self)
        if not politely:
            transport.abort()
            return
        problem = Problem(503, "overloaded", "the proxy has as many connections as it takes", retry_after=1)
        body = problem.body()
        framing = b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
        self.write(own_response_bytes(503, problem.headers(), framing=framing, date=self.edge.date()) + body)
        self._linger()
