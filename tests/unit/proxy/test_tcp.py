from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flow_manager.errors import Conflict, ContainerNotFound, SettingsRefused, WakeTimeout
from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy import tcp as routes_module
from flow_manager.proxy import tcp_connection, tcp_end
from flow_manager.proxy.tcp import TcpRoutes, parse_listen
from flow_manager.runtimes.base import Observation
from flow_manager.settings.models import Settings
from flow_manager.testing import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MEGABYTE = 1 << 20


class Lease:
    def __init__(self, flow: Flow, kind: str, holder: str) -> None:
        self.flow, self.kind, self.holder = flow, kind, holder
        self.touches = 0
        self.over = False

    def touch(self) -> None:
        self.touches += 1

    def release(self) -> None:
        self.over = True


class Flow:
    """A watcher whose flow is an asyncio server of the test's own."""

    def __init__(self, answer: Answer, *, ready: bool = False) -> None:
        self.id = "abcdefghijkl"
        self.ready = ready
        self.answer = answer
        self.may_wake = asyncio.Event()
        self.refuses: Exception | None = None
        self.wakes: list[str] = []
        self.begun: list[str] = []
        self.leases: list[Lease] = []
        self.run = 1
        self.entry: Any = SimpleNamespace(runtime=SimpleNamespace(kind="process"), observation=None)
        self._waking: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    def use(self, kind: str, holder: str) -> Lease:
        self.leases.append(Lease(self, kind, holder))
        return self.leases[-1]

    @property
    def state(self) -> str:
        return "ready" if self.ready else "napping"

    def listens_at(self, port: int, *, kind: str = "process") -> None:
        """On this host, as the runtime says. Kind docker: nothing but the forwarder's port is known."""
        self.entry.runtime.kind = kind
        self.entry.observation = Observation(self.id, None, "db", "running", ports={"5432/tcp": port})

    @property
    def host_port(self) -> int:
        port: int = self.entry.observation.ports["5432/tcp"]
        return port

    def begin_wake(self, *, reason: str) -> None:
        self.begun.append(reason)
        if self.refuses is not None:
            raise self.refuses

    async def wake(self, *, reason: str, by_request: bool = True) -> None:
        assert by_request
        if self._waking is None:
            self.wakes.append(reason)
            self._waking = asyncio.ensure_future(self.start())
        await asyncio.shield(self._waking)

    async def start(self) -> None:
        await self.may_wake.wait()
        if self.refuses is not None:
            raise self.refuses
        await self.listen()
        self.ready = True

    async def listen(self) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            try:
                await self.answer(reader, writer)
            except OSError:
                writer.close()

        self._server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.listens_at(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        return len(self._writers)

    def die(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self.ready, self._waking = False, None
        self.run += 1

    async def end(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait({self._waking})
        self.die()


class Registry:
    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}

    def resolve(self, principal: Any, ref: str) -> Flow:
        assert (principal.name, principal.tenant) == ("manager", "default")
        try:
            return self.flows[ref]
        except KeyError:
            raise ContainerNotFound(ref, kind="docker") from None


class Log(SystemLogger):
    def __init__(self) -> None:
        super().__init__()
        self.notices: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []

    def log_notice(self, message: str, *, warning: bool = False, **fields: Any) -> None:
        self.notices.append({"message": message, **fields})

    def log_error(self, error_id: str, error: BaseException, **fields: Any) -> None:
        self.errors.append(error)


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry()
        self.log = Log()
        self.routes: TcpRoutes
        self.stack = AsyncExitStack()

    def settings(self, *listen: str, **proxy: Any) -> Settings:
        routes = [{"listen": where, "container": "db", "port": 5432} for where in listen or ("127.0.0.1:0",)]
        return Settings.model_validate(
            {"state_dir": self.folder, "sockets_dir": "/tmp/s", "tcp_routes": routes, "proxy": proxy}
        )

    async def open(self, *listen: str, **proxy: Any) -> tuple[str, int]:
        self.routes = TcpRoutes(self.settings(*listen, **proxy), self.registry, self.log, contained=lambda: False)
        await self.routes.open()
        self.stack.push_async_callback(self.routes.close)
        return self.routes.addresses[0]

    def flow(self, answer: Answer, *, ready: bool = False) -> Flow:
        made = self.registry.flows["db"] = Flow(answer, ready=ready)
        self.stack.push_async_callback(made.end)
        return made

    async def awake(self, answer: Answer) -> Flow:
        made = self.flow(answer)
        made.may_wake.set()
        await made.wake(reason="the test")
        made.wakes.clear()
        return made

    async def client(self, address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address)
        # The writer itself is kept: one that is collected before its end closes the connection under the test.
        self.stack.callback(lambda: writer.transport.abort())
        return reader, writer


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    try:
        yield house
    finally:
        await house.stack.aclose()
    assert house.log.errors == []
    for flow in house.registry.flows.values():
        assert all(lease.over for lease in flow.leases)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the client has said its last word."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


# --- waking -----------------------------------------------------------------------------------------------------------


async def test_the_first_bytes_wait_for_the_wake_and_are_delivered(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    reader, writer = await house.client(address)
    writer.write(b"hello")
    await eventually(lambda: flow.wakes)
    assert flow.wakes == ["a TCP connection on 127.0.0.1:0"]
    flow.may_wake.set()
    assert await reader.readexactly(5) == b"hello"
    writer.write(b" again")
    assert await reader.readexactly(6) == b" again"
    assert [lease.kind for lease in flow.leases] == ["tcp"]
    assert flow.leases[0].holder.startswith("127.0.0.1:")


async def test_a_connection_without_a_byte_wakes_too_and_hears_a_server_that_speaks_first(house: House) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await reader.read()
        writer.close()

    flow, address = house.flow(greet), await house.open()
    flow.may_wake.set()
    reader, _ = await house.client(address)
    assert await reader.readline() == b"220 ready\r\n"


async def test_many_connections_share_one_wake(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    clients = [await house.client(address) for _ in range(50)]
    for number, (_, writer) in enumerate(clients):
        writer.write(f"{number:04}".encode())
    await eventually(lambda: len(flow.leases) == 50)
    flow.may_wake.set()
    answers = await asyncio.gather(*(reader.readexactly(4) for reader, _ in clients))
    assert answers == [f"{number:04}".encode() for number in range(50)]
    assert len(flow.wakes) == 1


async def test_a_ready_flow_is_not_woken(house: House) -> None:
    flow, address = await house.awake(echo), await house.open()
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert flow.wakes == []


async def test_a_flow_that_is_made_later_is_found(house: House) -> None:
    address = await house.open()
    reader, _ = await house.client(address)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await house.awake(echo)
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


async def test_only_so_much_is_taken_from_a_held_client_and_nothing_is_lost(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    reader, writer = await house.client(address)
    sent = bytes(range(256)) * (16 * MEGABYTE // 256)
    writer.write(sent)
    (connection,) = await eventually(lambda: house.routes._connections)
    await eventually(lambda: connection.client.received == tcp_end.HELD_BYTES)
    await asyncio.sleep(0.05)
    assert connection.client.received == tcp_end.HELD_BYTES
    flow.may_wake.set()
    assert await reader.readexactly(len(sent)) == sent


async def test_a_last_word_said_while_held_is_passed_on(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    reader, writer = await house.client(address)
    writer.write(b"only this")
    writer.write_eof()
    await eventually(lambda: flow.wakes)
    flow.may_wake.set()
    assert await reader.read() == b"only this"


async def test_a_client_that_leaves_while_held_cancels_nothing(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    _, leaving = await house.client(address)
    leaving.write(b"bye")
    reader, staying = await house.client(address)
    staying.write(b"here")
    await eventually(lambda: len(flow.leases) == 2)
    sock = leaving.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leaving.transport.abort()
    await eventually(lambda: [lease.over for lease in flow.leases] == [True, False])
    flow.may_wake.set()
    assert await reader.readexactly(4) == b"here"
    assert flow.connections == 1
    assert len(flow.wakes) == 1


async def test_when_the_wake_fails_every_held_client_is_reset_and_it_is_said(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    flow.refuses = WakeTimeout("not ready after 3 s: TCP :5432", waited_for="TCP :5432", timeout=3)
    clients = [await house.client(address) for _ in range(3)]
    await eventually(lambda: len(flow.leases) == 3)
    flow.may_wake.set()
    for reader, _ in clients:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert house.log.notices == [
        {
            "message": "a TCP connection was refused",
            "listen": "127.0.0.1:0",
            "container": "db",
            "code": "wake_timeout",
            "reason": "not ready after 3 s: TCP :5432",
            "held_back": None,
        }
    ]


async def test_a_flow_that_fell_asleep_before_it_was_reached_is_woken_again(house: House) -> None:
    flow, address = await house.awake(echo), await house.open()
    flow.die()
    flow.ready = True  # its end has not been noticed yet
    reader, writer = await house.client(address)
    writer.write(b"x")
    await asyncio.sleep(0.05)
    flow.ready = False
    assert await reader.readexactly(1) == b"x"
    assert len(flow.wakes) == 1


async def test_a_port_that_opens_later_than_readiness_is_waited_for(house: House) -> None:
    flow, address = await house.awake(echo), await house.open()
    observation, flow.entry.observation = flow.entry.observation, None
    reader, writer = await house.client(address)
    writer.write(b"x")
    await asyncio.sleep(0.1)
    flow.entry.observation = observation
    assert await reader.readexactly(1) == b"x"


async def test_a_port_that_never_opens_ends_the_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_connection, "CONNECT_PATIENCE", 0.1)
    flow, address = await house.awake(echo), await house.open()
    flow.entry.observation = None
    reader, _ = await house.client(address)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert "port 5432" in house.log.notices[0]["reason"]


async def test_bytes_on_an_open_connection_wake_a_flow_that_was_paused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_connection, "TOUCH_INTERVAL", 0.0)
    flow, address = await house.awake(echo), await house.open()
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    flow.ready = False
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    assert flow.begun == ["a TCP connection on 127.0.0.1:0"]


async def test_bytes_for_a_flow_that_must_not_be_woken_do_no_harm(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_connection, "TOUCH_INTERVAL", 0.0)
    flow, address = await house.awake(echo), await house.open()
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    flow.ready, flow.refuses = False, Conflict("somebody stopped this flow", desired="stopped")
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    assert len(flow.begun) == 1


# --- forwarders -------------------------------------------------------------------------------------------------------


async def test_behind_a_forwarder_nothing_is_delivered_before_the_program_is_there(house: House) -> None:
    """As docker-proxy: accepts, and closes while nobody listens behind it. What was delivered then would be lost."""
    listens = False

    async def forwarder(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if listens:
            await echo(reader, writer)
        else:
            writer.close()

    flow, address = await house.awake(forwarder), await house.open()
    flow.listens_at(flow.host_port, kind="docker")
    reader, writer = await house.client(address)
    writer.write(b"precious")
    await eventually(lambda: flow.connections >= 2)
    listens = True
    assert await reader.readexactly(8) == b"precious"


async def test_behind_a_forwarder_the_first_words_of_the_program_are_not_lost(house: House) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"banner\n")
        await echo(reader, writer)

    flow, address = await house.awake(greet), await house.open()
    flow.listens_at(flow.host_port, kind="docker")
    for _ in range(2):  # found out, and known
        reader, writer = await house.client(address)
        writer.write(b"x")
        assert await reader.readexactly(8) == b"banner\nx"


async def test_behind_a_forwarder_each_run_is_looked_at_anew(house: House) -> None:
    listens = True

    async def forwarder(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if listens:
            await echo(reader, writer)
        else:
            writer.close()

    flow, address = await house.awake(forwarder), await house.open()
    flow.listens_at(flow.host_port, kind="docker")
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    listens, flow.run = False, flow.run + 1
    before = flow.connections
    reader, writer = await house.client(address)
    writer.write(b"precious")
    await eventually(lambda: flow.connections >= before + 2)
    listens = True
    assert await reader.readexactly(8) == b"precious"


# --- pumping ----------------------------------------------------------------------------------------------------------


async def test_half_closes_go_both_ways(house: House) -> None:
    async def sum_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read()
        writer.write(f"{len(said)} bytes".encode())
        writer.close()

    await house.awake(sum_up)
    reader, writer = await house.client(await house.open())
    writer.write(b"x" * 1000)
    writer.write_eof()
    assert await reader.read() == b"1000 bytes"
    await eventually(lambda: not house.routes._connections)


async def test_the_servers_last_word_leaves_the_client_free_to_speak(house: House) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def speak_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"done")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    await house.awake(speak_then_listen)
    reader, writer = await house.client(await house.open())
    assert await reader.read() == b"done"
    writer.write(b"thanks")
    writer.write_eof()
    assert await heard == b"thanks"


async def test_a_client_that_does_not_read_stops_the_flow_from_sending(house: House) -> None:
    written = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    await house.awake(flood)
    host, port = await house.open()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, port))
        (connection,) = await eventually(lambda: house.routes._connections)
        before = -1
        while written != before:
            before = written
            await asyncio.sleep(0.1)
        assert connection.client.unsent <= 4 * tcp_end.HELD_BYTES
        # And it goes on when it reads.
        received = 0
        while received < 2 * before:
            received += len(await asyncio.get_running_loop().sock_recv(client, MEGABYTE))


async def test_a_reset_goes_through(house: House) -> None:
    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    await house.awake(slam)
    reader, _ = await house.client(await house.open())
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_a_client_that_leaves_takes_its_connection_to_the_flow_along(house: House) -> None:
    flow = await house.awake(echo)
    reader, writer = await house.client(await house.open())
    writer.write(b"x")
    await reader.readexactly(1)
    writer.close()
    await eventually(lambda: not house.routes._connections)
    assert flow.leases[0].over


async def test_bytes_touch_the_lease_now_and_then(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_connection, "TOUCH_INTERVAL", 0.1)
    flow = await house.awake(echo)
    reader, writer = await house.client(await house.open())
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() - begun < 0.35:
        writer.write(b"x")
        await reader.readexactly(1)
    assert 3 <= flow.leases[0].touches <= 6


async def test_what_one_side_has_ended_is_given_up_when_nothing_moves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_connection, "HALF_CLOSED_PATIENCE", 0.05)

    async def never_ends(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    flow = house.flow(never_ends)
    tasks = asyncio.all_tasks()
    address = await house.open()
    flow.may_wake.set()
    reader, writer = await house.client(address)
    writer.write_eof()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    for task in asyncio.all_tasks() - tasks - {asyncio.current_task()}:
        task.cancel()


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_no_more_clients_than_allowed_wait_for_one_flow(house: House) -> None:
    flow, address = house.flow(echo), await house.open(held_per_flow=2)
    held = [await house.client(address) for _ in range(2)]
    await eventually(lambda: len(flow.leases) == 2)
    reader, _ = await house.client(address)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert house.log.notices[0]["reason"] == "too many clients wait: proxy.held_per_flow"
    flow.may_wake.set()
    for reader, writer in held:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


async def test_no_more_connections_than_allowed_are_open(house: House) -> None:
    await house.awake(echo)
    address = await house.open(max_connections=1)
    reader, writer = await house.client(address)
    writer.write(b"x")
    await reader.readexactly(1)
    other, _ = await house.client(address)
    with pytest.raises(ConnectionResetError):
        await other.read()
    writer.close()
    await eventually(lambda: not house.routes._connections)
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


async def test_refusals_of_one_route_are_logged_once_a_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    address = await house.open()
    for _ in range(5):
        reader, _ = await house.client(address)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert len(house.log.notices) == 1
    monkeypatch.setattr(routes_module, "REFUSAL_LOG_INTERVAL", 0.0)
    reader, _ = await house.client(address)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert house.log.notices[1]["held_back"] == 4


# --- opening and closing ----------------------------------------------------------------------------------------------


async def test_closing_ends_held_and_joined_connections_and_leaves_nothing(house: House) -> None:
    flow, address = house.flow(echo), await house.open()
    joined = None
    held_reader, _ = await house.client(address)
    await eventually(lambda: flow.wakes)
    other = await house.awake(echo)
    joined, writer = await house.client(address)
    writer.write(b"x")
    await joined.readexactly(1)
    await house.routes.close()
    for reader in (held_reader, joined):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert [lease.over for lease in flow.leases + other.leases] == [True, True]
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)
    await house.routes.close()


async def test_a_route_listens_on_ipv6(house: House) -> None:
    await house.awake(echo)
    address = await house.open("[::1]:0")
    assert address[0] == "::1"
    reader, writer = await house.client(address)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


async def test_an_address_in_use_is_refused_by_name_and_nothing_stays_open(house: House) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for sock in (taken, free):
            sock.bind(("127.0.0.1", 0))
        taken.listen()
        first, second = (sock.getsockname()[1] for sock in (free, taken))
        free.close()
        with pytest.raises(SettingsRefused, match=r"tcp_routes\[1\]\.listen: 127\.0\.0\.1:[0-9]+ can't be listened on"):
            await house.open(f"127.0.0.1:{first}", f"127.0.0.1:{second}")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", first))


@pytest.mark.parametrize("listen", ["203.0.113.7:5432", "127.0.0.1:70000", "[::1:5432", "no such host:1", "x:99999"])
async def test_an_address_that_cannot_be_listened_on_is_refused_by_name(house: House, listen: str) -> None:
    with pytest.raises(SettingsRefused, match=r"tcp_routes\[0\]\.listen"):
        await house.open(listen)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:5432", ("::1", 5432)),
        ("::1:5432", ("::1", 5432)),
        ("localhost:0", ("localhost", 0)),
    ],
)
async def test_addresses_are_read_as_people_write_them(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed
