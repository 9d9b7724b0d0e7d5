"""One client's connection on a TCP route, from its arrival to its end: held while the flow wakes, then joined to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import FlowState
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import FlowManagerError
from flow_manager.idle.readiness_tcp import Failed, connect, discard, pause, race
from flow_manager.idle.upstream import Candidate, Network, candidates, from_here, no_way
from flow_manager.proxy.context import HeldCount
from flow_manager.proxy.tcp_end import End, Scratch

# A flow that sleeps again (or refuses) between readiness and the connection is woken again, but not for ever.
MAX_WAKES = 5
# A ready flow whose port refuses is tried again for this many seconds: its port may open later than what readiness asks.
CONNECT_PATIENCE = 10.0
# A lease is touched at most this often, in seconds: idle timeouts are whole seconds, bytes come in thousands a second.
TOUCH_INTERVAL = 0.25
# A connection of which one side has ended is given up when no byte moved for this many seconds: its other side may be
# gone without a trace, and nothing would ever tell.
HALF_CLOSED_PATIENCE = 900.0


class Use(Protocol):
    def release(self) -> None: ...
    def touch(self) -> None: ...


class RoutedFlow(Protocol):
    """`idle.watcher.Watcher`, as a TCP route sees it."""

    @property
    def id(self) -> str: ...
    @property
    def entry(self) -> FlowEntry: ...
    @property
    def state(self) -> FlowState: ...
    @property
    def run(self) -> int:
        """Changes with each run of the flow."""
        ...

    def use(self, kind: LeaseKind, holder: str) -> Use: ...
    async def wake(self, *, reason: str, by_request: bool = True) -> None: ...
    def begin_wake(self, *, reason: str) -> None: ...


class Ways:
    """Connects to one port of a flow, which need not be the one that its readiness knows, and remembers for the run which
    way led there: only the first connection has to find out."""

    def __init__(
        self, port: int, *, published_on: str, networks: Callable[[], Sequence[Network]], contained: Callable[[], bool]
    ) -> None:
        self._port = port
        self._published_on = published_on
        self._networks = networks
        self._contained = contained
        self._known: tuple[str, int, Candidate] | None = None

    async def connect(self, flow: RoutedFlow) -> tuple[socket.socket, bytes]:
        """A connected socket, and what came from it already.

        :raises Failed:
        """
        run, known = flow.run, self._known
        if known is not None and known[:2] == (flow.id, run):
            try:
                # What stands behind a forwarder was seen in this run: no connection has to wait for it again.
                return await connect(Candidate(known[2].address, known[2].port))
            except Failed:
                self._known = None
                raise
        kind = flow.entry.runtime.kind
        found = candidates(flow.entry.observation, self._port, kind, published_on=self._published_on)
        ways = from_here(found, contained=self._contained())
        if not ways:
            raise Failed(no_way(flow.entry.observation, self._port, published_on=self._published_on))
        way, connected = await race(ways, connect, networks=self._networks(), dispose=discard)
        self._known = (flow.id, run, way)
        return connected


class Route(Protocol):
    """What a connection needs of the route that it came on."""

    @property
    def reason(self) -> str:
        """Why its flow is woken."""
        ...

    @property
    def ways(self) -> Ways: ...
    @property
    def held(self) -> HeldCount: ...
    @property
    def scratch(self) -> Scratch: ...

    def admit(self, connection: TcpConnection) -> RoutedFlow:
        """Its flow. :raises FlowManagerError: there is none, or no room."""
        ...

    def refused(self, error: Exception) -> None:
        """A client was sent away."""
        ...

    def over(self, connection: TcpConnection) -> None:
        """Nothing is left of it."""
        ...


class TcpConnection:
    """Owns both ends, the lease and the task that joins them. `client` is the server's protocol."""

    def __init__(self, route: Route) -> None:
        self.client = End(self, route.scratch)
        self._upstream: End | None = None
        self._route = route
        self._flow: RoutedFlow | None = None
        self._lease: Use | None = None
        self._joining: asyncio.Task[None] | None = None
        self._early = b""
        self._touched = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._moved: tuple[int, ...] = ()

    def abandon(self) -> None:
        """End it now; `over` follows."""
        if self._joining is not None:
            self._joining.cancel()
        for end in self._ends():
            end.reset()

    # --- what the ends say --------------------------------------------------------------------------------------------

    def end_made(self, end: End) -> None:
        if end is self.client:
            self._begin()
        elif self.client.lost:
            end.reset()
        else:
            self.client.join(end, self._early)

    def end_saw(self, end: End) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._touched < TOUCH_INTERVAL or self._lease is None or self._flow is None:
            return
        self._touched = now
        self._lease.touch()
        if end is self.client and self._upstream is not None and self._flow.state != "ready":
            # Paused, say: what was sent waits in its socket, and it is to go on and read it.
            try:
                self._flow.begin_wake(reason=self._route.reason)
            except FlowManagerError:
                pass  # somebody stopped it, say: then they wait on

    def end_finished(self, end: End) -> None:
        if self._upstream is not None and self.client.finished and self._upstream.finished:
            self.client.close()
            self._upstream.close()
        self._lose_patience()

    def end_lost(self, end: End, error: Exception | None) -> None:
        if end is self.client and self._joining is not None:
            self._joining.cancel()  # its own waiting alone: the wake goes on
        for other in self._ends():
            if other is not end:
                if error is None:
                    other.close()
                else:
                    other.reset()
        self._lose_patience()
        self._end_if_nothing_is_left()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            self._flow = self._route.admit(self)
        except FlowManagerError as error:
            self._refuse(error)
            return
        peer = self.client.transport.get_extra_info("peername")
        self._lease = self._flow.use("tcp", str(Candidate(*peer[:2])) if peer else "a TCP client")
        self._joining = asyncio.get_running_loop().create_task(self._join(self._flow))
        self._joining.add_done_callback(lambda _: self._end_if_nothing_is_left())

    async def _join(self, flow: RoutedFlow) -> None:
        try:
            with self._route.held.one_more(flow.id):
                sock, self._early = await self._reach(flow)
            upstream = self._upstream = End(self, self._route.scratch)
            await asyncio.get_running_loop().create_connection(lambda: upstream, sock=sock)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._refuse(error)

    async def _reach(self, flow: RoutedFlow) -> tuple[socket.socket, bytes]:
        """Connected to the flow, which is woken for it.

        :raises FlowManagerError: it could not be woken. :raises Failed: it is awake, and its port refuses.
        """
        loop, failed = asyncio.get_running_loop(), Failed("it fell asleep again and again")
        for _ in range(MAX_WAKES):
            if flow.state != "ready":
                await flow.wake(reason=self._route.reason)
            begun = loop.time()
            while flow.state == "ready":
                if self._lease is not None:
                    # A client that waits is use, for however long the wake and the port take.
                    self._lease.touch()
                try:
                    return await self._route.ways.connect(flow)
                except Failed as error:
                    failed = error
                waited = loop.time() - begun
                if waited > CONNECT_PATIENCE:
                    raise failed
                await asyncio.sleep(pause(waited))
        raise failed

    def _refuse(self, error: Exception) -> None:
        self._route.refused(error)
        self.client.reset()

    def _ends(self) -> list[End]:
        return [self.client] if self._upstream is None else [self.client, self._upstream]

    def _lose_patience(self) -> None:
        """Look again later whether anything moved; nothing else ends what only one side has ended."""
        if self._patience is None:
            self._moved = self._progress()
            self._patience = asyncio.get_running_loop().call_later(HALF_CLOSED_PATIENCE, self._look_again)

    def _look_again(self) -> None:
        self._patience = None
        if self._progress() == self._moved and self._upstream is not None:
            for end in self._ends():
                end.reset()
        else:
            self._lose_patience()

    def _progress(self) -> tuple[int, ...]:
        return tuple(number for end in self._ends() for number in (end.received, end.unsent))

    def _end_if_nothing_is_left(self) -> None:
        upstream = self._upstream
        if not self.client.lost or (self._joining is not None and not self._joining.done()):
            return
        if upstream is not None and upstream.transport is not None and not upstream.lost:
            return
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        self._route.over(self)
