"""The Socket.IO edge of the control port: connections, who they are, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from flow_manager.activity.subscription import ReadableStream
from flow_manager.contract.models import ContainerMessage, ContainerStatus
from flow_manager.contract.principal import Principal
from flow_manager.errors import FlowManagerError, RateLimited, ValidationFailure
from flow_manager.gateway.auth import Authenticator, check_open_mode
from flow_manager.gateway.clients import Client, Clients
from flow_manager.gateway.dispatch import Dispatcher, GatewayLog, RepeatGuard
from flow_manager.gateway.engine import RETRY_AFTER
from flow_manager.gateway.engine_socket import EngineSocket
from flow_manager.gateway.frames import ack_frame
from flow_manager.gateway.handlers import Manager, SocketIOEventHandler
from flow_manager.gateway.logs import LogSubscriptions
from flow_manager.gateway.packets import Event
from flow_manager.gateway.publisher import Publisher
from flow_manager.gateway.readings import NoReader, Reader
from flow_manager.gateway.socketio_server import NAMESPACE, SocketServer, not_connected
from flow_manager.gateway.subscriptions import Subscriptions
from flow_manager.gateway.terminals import TerminalDesk, TerminalViews
from flow_manager.gateway.usage import UsageSubscriptions
from flow_manager.gateway.wakes import NoWaker, Waker, WakeSubscriptions
from flow_manager.observability.metrics import Counter, Gauge, Recorder
from flow_manager.settings.models import Settings
from flow_manager.store.base import StoredActivity
from flow_manager.util import strict_json
from flow_manager.util.clock import Clock
from flow_manager.util.hosts import HostRule, parse_authority

PATH = "/socket.io"
# The part of the shutdown's time that events under way may use; disconnecting and what comes after need the rest.
SHARE_FOR_EVENTS = 0.25
# Seconds in which all clients are told and gone.
DISCONNECT_TIMEOUT = 2.0


class Gateway:
    """`attach` to an application, `open`, and `close` before the application's own clean-up."""

    def __init__(
        self,
        settings: Settings,
        manager: Manager,
        stream: ReadableStream,
        repeats: RepeatGuard,
        describe: Callable[[Principal], dict[str, Any]],
        log: GatewayLog,
        clock: Clock,
        *,
        waker: Waker | None = None,
        terminals: TerminalDesk | None = None,
        reader: Reader | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        limits = settings.limits
        self._settings = settings
        self._describe = describe
        self._log = log
        self._clock = clock
        self._authenticator = Authenticator(settings.auth)
        self._rule = HostRule.of(settings.auth.hosts, settings.auth.origins, own_address=not self._authenticator.open)
        self._clients = Clients()
        self._recorder = recorder or Recorder()
        self._publisher = Publisher()
        self._subscriptions = Subscriptions(stream, self._publisher, manager.resolve)
        waker = waker or NoWaker()
        self._wakes = WakeSubscriptions(waker, manager.resolve)
        self._terminals = TerminalViews(terminals)
        reader = reader or NoReader()
        self._logs = LogSubscriptions(reader, limits)
        self._usage = UsageSubscriptions(reader)
        self.handler = SocketIOEventHandler(
            manager,
            self._clients,
            self._subscriptions,
            waker,
            self._wakes,
            reader,
            self._logs,
            self._usage,
            self._terminals,
        )
        self._dispatcher = Dispatcher(
            self.handler, repeats, in_flight=limits.events_in_flight, log=log, clock=clock, recorder=self._recorder
        )
        self._server = SocketServer(self, max_payload=limits.payload, origin_allowed=self._origin_allowed)
        engine = self._server.eio
        engine.receiver = self._server
        engine.client_buffer = limits.client_buffer
        engine.connect_deadline = limits.connect_deadline
        engine.max_clients = limits.max_clients
        engine.max_unauthenticated = limits.max_unauthenticated
        engine.count_authenticated = lambda: len(self._clients)
        self._refused = Counter("flow_manager_connects_refused_total", "CONNECT refused: no valid token, or too many.")
        self._slow = Counter("flow_manager_slow_clients_total", "Clients cut off because they did not read.")
        self._measure()

    @property
    def client_count(self) -> int:
        """Connected and authenticated."""
        return len(self._clients)

    def metrics(self) -> str:
        """Prometheus text."""
        return self._recorder.render()

    def attach(self, app: web.Application) -> None:
        """Answer at `/socket.io` and `/socket.io/`."""
        for path in (PATH, PATH + "/"):
            for method in ("GET", "POST", "OPTIONS"):
                app.router.add_route(method, path, self._server.eio.handle_request)

    async def open(self) -> None:
        """:raises SettingsRefused: for an open service that others could reach."""
        check_open_mode(self._settings)

    async def close(self) -> None:
        """Refuse what is new, answer what is under way, then let everybody go; clients see a lost transport and come back."""
        self._server.eio.accepting = False
        cut = await self._dispatcher.close(self._settings.shutdown_timeout * SHARE_FOR_EVENTS)
        sockets: list[EngineSocket] = list(self._server.eio.sockets.values())
        self._log.log_socket_event("shutdown", "-", clients=len(sockets), cut_off=cut)
        for socket in sockets:
            await socket.close(reason=self._server.reason.SERVER_DISCONNECT)
        try:
            async with asyncio.timeout(DISCONNECT_TIMEOUT):
                await self._server.eio.settled()
        except TimeoutError:
            for socket in sockets:
                socket.cut(self._server.reason.SERVER_DISCONNECT)
        await self._server.shutdown()

    # --- what happens, to those who may see it -----------------------------------------------------------------------

    def publish_activity(self, entries: Sequence[StoredActivity]) -> None:
        """Stored entries in the order of their cursors. Never blocks."""
        self._publisher.publish_activity(entries)

    def publish_status(self, tenant: str, status: ContainerStatus) -> None:
        """A flow of this tenant changed its state. Never blocks."""
        self._publisher.publish_status(tenant, status)

    def publish_message(self, tenant: str, message: ContainerMessage) -> None:
        """A flow of this tenant said something on its own. Never blocks."""
        self._publisher.publish_message(tenant, message)

    def _measure(self) -> None:
        connections = Gauge("flow_manager_connections", "Engine.IO sessions, authenticated or not yet.")
        subscribers = Gauge("flow_manager_subscribers", "Live activity subscriptions.")
        followers = Gauge("flow_manager_wake_followers", "Subscriptions to a flow's wake events.")
        logs = Gauge("flow_manager_log_followers", "Subscriptions to what a flow writes.")
        usage = Gauge("flow_manager_usage_followers", "Subscriptions to what a flow uses.")
        in_flight = Gauge("flow_manager_events_in_flight", "Client events that are being handled.")
        self._recorder.clients.follow(lambda: {(): len(self._clients)})
        connections.follow(lambda: {(): len(self._server.eio.sockets)})
        subscribers.follow(lambda: {(): len(self._publisher)})
        followers.follow(lambda: {(): len(self._wakes)})
        logs.follow(lambda: {(): len(self._logs)})
        usage.follow(lambda: {(): len(self._usage)})
        in_flight.follow(lambda: {(): self._dispatcher.in_flight})
        for metric in (connections, subscribers, followers, logs, usage, in_flight, self._refused, self._slow):
            self._recorder.add(metric)

    # --- hooks of the Socket.IO server ---------------------------------------------------------------------------------

    async def connect(self, sid: str, socket: EngineSocket, auth: Any) -> None:
        """:raises Unauthorized: without a valid token.  :raises RateLimited: when there are too many."""
        try:
            principal = self._authenticator.authenticate(auth)
            if len(self._clients) >= self._settings.limits.max_clients:
                # The door counts too, but several may be past it and not in yet.
                raise RateLimited("too many clients", retry_after=RETRY_AFTER)
        except FlowManagerError:
            self._refused.add()
            raise
        socket.client = client = Client(sid, principal, socket)
        self._clients.add(client)
        self._log.log_socket_event("connect", sid, actor=principal.name, peer=socket.peer)

    def connected(self, sid: str, socket: EngineSocket) -> None:
        client: Client = socket.client
        client.greeted = True
        try:
            client.emit("hello", self._describe(client.principal))
        except Exception as exc:
            self._dispatcher.fault("hello", exc, sid=sid)

    def disconnected(self, sid: str, socket: EngineSocket | None, reason: str) -> None:
        client = self._clients.remove(sid)
        if client is not None:
            client.socket.client = None
            self._subscriptions.unsubscribe(client)
            self._wakes.drop(client)
            self._terminals.drop(client)
            self._logs.drop(client)
            self._usage.drop(client)
            self._log.log_socket_event("disconnect", sid, actor=client.principal.name, reason=reason)

    def event(self, socket: EngineSocket, event: Event, namespace: str) -> None:
        client = socket.client
        if client is not None and namespace == NAMESPACE:
            self._dispatcher.take(client, event)
        elif event.id is not None:
            # Before CONNECT, or in a namespace that isn't there: even so nobody is left waiting.
            body = strict_json.dumps_bytes(self._dispatcher.failure(not_connected()))
            socket.queue.put_nowait(ack_frame(event.id, body, namespace))

    def refused(self, socket: EngineSocket, refusal: ValidationFailure) -> None:
        client = socket.client
        if client is not None:
            self._dispatcher.take(client, Event(None, refusal=refusal))
        else:
            # Nobody whom we know, and nothing that we understand.
            socket.cut(self._server.reason.TRANSPORT_ERROR)

    def cut(self, socket: EngineSocket) -> None:
        client = socket.client
        self._slow.add()
        self._log.log_notice(
            "a slow client was cut off",
            warning=True,
            sid=client.sid if client is not None else socket.sid,
            pending_bytes=socket.queue.pending_bytes,
            peer=socket.peer,
        )

    def fault(self, where: str, exc: BaseException) -> FlowManagerError:
        return self._dispatcher.fault(where, exc)

    def _origin_allowed(self, origin: str | None, environ: dict[str, Any]) -> bool:
        """The second of two checks: the web edge's guard has judged Host and Origin of every request already."""
        host = parse_authority(environ.get("HTTP_HOST", ""))
        return origin is not None and host is not None and self._rule.accepts_origin(origin, host)
