"""TCP routes: ports of this machine that wake a flow and are joined to one of its ports (`[[tcp_routes]]`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from flow_manager.contract.principal import MANAGER, Principal
from flow_manager.errors import FlowManagerError, QuotaExceeded, SettingsRefused, ShuttingDown
from flow_manager.idle.readiness_tcp import Failed
from flow_manager.idle.upstream import Network, in_container, networks_here
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.context import HeldCount, TooManyHeld
from flow_manager.proxy.tcp_connection import RoutedFlow, TcpConnection, Ways
from flow_manager.proxy.tcp_end import Scratch
from flow_manager.settings.models import Settings, TcpRouteSettings

# Connections that may wait in the kernel to be accepted.
BACKLOG = 1024
# A route logs refusals at most this often, in seconds: whoever scans ports must not fill the log.
REFUSAL_LOG_INTERVAL = 1.0
# For connections to end after they were reset; they do so in the next turns of the loop.
CLOSE_TIMEOUT = 2.0


class Flows(Protocol):
    """`idle.registry.IdleRegistry`, as TCP routes see it."""

    def resolve(self, principal: Principal, ref: str) -> RoutedFlow:
        """:raises ContainerNotFound:"""
        ...


class TcpRoutes:
    """All routes of the settings. `held`: a count of waiting clients to share with the HTTP proxy; default: its own."""

    def __init__(
        self,
        settings: Settings,
        registry: Flows,
        log: SystemLogger,
        *,
        held: HeldCount | None = None,
        networks: Callable[[], Sequence[Network]] = networks_here,
        contained: Callable[[], bool] = in_container,
    ) -> None:
        self._max_connections = settings.proxy.max_connections
        self._registry = registry
        self._log = log
        self._connections: set[TcpConnection] = set()
        self._empty = asyncio.Event()
        self._closing = False
        self._servers: list[asyncio.Server] = []
        published_on = settings.policy.publish_address
        scratch = Scratch()
        held = held or HeldCount(settings.proxy.held_per_flow, settings.proxy.held)
        self._routes = []
        for route in settings.tcp_routes:
            ways = Ways(route.port, published_on=published_on, networks=networks, contained=contained)
            self._routes.append(_Route(self, route, ways, scratch, held))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where is listened, in the order of the routes; a name like `localhost` may give several."""
        return [sock.getsockname()[:2] for server in self._servers for sock in server.sockets]

    async def open(self) -> None:
        """:raises SettingsRefused: an address can't be listened on; none is then."""
        try:
            for index, route in enumerate(self._routes):
                self._servers.append(await _listen(index, route))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """No connection, task or socket is left."""
        self._closing = True
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for connection in list(self._connections):
            connection.abandon()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
                for server in servers:
                    await server.wait_closed()
        except TimeoutError:
            self._log.log_notice("TCP connections did not end", warning=True, count=len(self._connections))

    # What its routes ask.

    def admit(self, connection: TcpConnection, ref: str) -> RoutedFlow:
        """:raises FlowManagerError: no such flow, or no room for another connection."""
        self._connections.add(connection)
        if self._closing:
            raise ShuttingDown("the service is about to end")
        if len(self._connections) > self._max_connections:
            raise QuotaExceeded("proxy.max_connections is reached", limit=self._max_connections)
        return self._registry.resolve(MANAGER, ref)

    def over(self, connection: TcpConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def log_refusals(self, route: TcpRouteSettings, error: Exception, held_back: int) -> None:
        if isinstance(error, FlowManagerError | Failed | TooManyHeld | OSError):
            self._log.log_notice(
                "a TCP connection was refused",
                warning=True,
                listen=route.listen,
                container=route.container,
                code=error.code if isinstance(error, FlowManagerError) else None,
                reason=_words(error),
                held_back=held_back or None,
            )
        else:
            self._log.log_error(f"tcp-{route.listen}", error, listen=route.listen, container=route.container)


class _Route:
    """One `[[tcp_routes]]`. Its flow is looked for with each connection: it may be made later, or made anew."""

    def __init__(
        self, routes: TcpRoutes, settings: TcpRouteSettings, ways: Ways, scratch: Scratch, held: HeldCount
    ) -> None:
        self.settings = settings
        self.reason = f"a TCP connection on {settings.listen}"
        self.ways = ways
        self.scratch = scratch
        self.held = held
        self._routes = routes
        self._logged = float("-inf")
        self._held_back = 0

    def admit(self, connection: TcpConnection) -> RoutedFlow:
        return self._routes.admit(connection, self.settings.container)

    def refused(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged < REFUSAL_LOG_INTERVAL:
            self._held_back += 1
            return
        held_back, self._held_back, self._logged = self._held_back, 0, now
        self._routes.log_refusals(self.settings, error, held_back)

    def over(self, connection: TcpConnection) -> None:
        self._routes.over(connection)


async def _listen(index: int, route: _Route) -> asyncio.Server:
    """:raises SettingsRefused: naming the setting and what to do."""
    text = route.settings.listen
    try:
        host, port = parse_listen(text)
        return await asyncio.get_running_loop().create_server(
            lambda: TcpConnection(route).client, host, port, backlog=BACKLOG, family=socket.AF_UNSPEC
        )
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsRefused(
            f"tcp_routes[{index}].listen: {text} can't be listened on ({reason}); "
            "give an address of this machine and a port that is free"
        ) from None


def parse_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:5432`, `[::1]:5432`, `localhost:5432` → (host, port); port 0: any free one.

    :raises ValueError:
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") != host.endswith("]") or not (colon and port.isascii() and port.isdigit()):
        raise ValueError("not an address and a port")
    if int(port) > 65535:
        raise ValueError(f"there is no port {port}")
    return host.strip("[]"), int(port)


def _words(error: Exception) -> str:
    if isinstance(error, TooManyHeld):
        return f"too many clients wait: proxy.{error.limit}"
    return getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
