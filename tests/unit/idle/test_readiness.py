from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Network
from typing import Any

import pytest

from flow_manager.contract.models import IdlePolicy
from flow_manager.idle import readiness, readiness_tcp
from flow_manager.idle.readiness import NotReady, Prober, ProbeTarget
from flow_manager.idle.upstream import Candidate
from flow_manager.testing import FakeClock, eventually
from flow_manager.util.clock import SystemClock

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

LOOPBACK_IS_NEAR = (IPv4Network("127.0.0.0/24"),)
FAR = "127.9.9.9"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[..., Awaitable[int]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def closing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def http(*heads: bytes) -> Answer:
    """Gives these answers one after the other, the last one again and again."""
    waiting = list(heads)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((waiting.pop(0) if len(waiting) > 1 else waiting[0]) + b"\r\n\r\n")
        writer.close()

    return answer


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    async with AsyncExitStack() as stack:

        async def start(answer: Answer, port: int = 0, address: str = "127.0.0.1") -> int:
            writers: list[asyncio.StreamWriter] = []

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writers.append(writer)
                try:
                    await answer(reader, writer)
                except (OSError, asyncio.IncompleteReadError):
                    writer.close()

            server = await asyncio.start_server(connected, address, port)

            async def stop() -> None:
                server.close()
                for writer in writers:
                    writer.transport.abort()

            stack.push_async_callback(stop)
            bound: int = server.sockets[0].getsockname()[1]
            return bound

        yield start


class Asked:
    """A target whose every word a test decides, and what its wait was told."""

    def __init__(self, *, ready: dict[str, Any] | None = None, ways: Sequence[Candidate] = (), port: int | None = None, **rest: Any) -> None:  # fmt: skip
        self.over = False
        self.told: list[str] = []
        self.ways = list(ways)
        self.target = ProbeTarget(
            flow_id="abcdefghijkl",
            policy=IdlePolicy.model_validate({"ready": ready}) if ready else None,
            ended=lambda: self.over,
            port=port,
            candidates=lambda _: self.ways,
            **rest,
        )

    def wait(self, seconds: float = 5.0, prober: Prober | None = None) -> asyncio.Task[Candidate | None]:
        prober = prober or Prober(contained=lambda: False)
        return asyncio.ensure_future(
            prober.wait_ready(self.target, deadline=prober.now() + seconds, told=self.told.append)
        )


def near(**options: Any) -> Prober:
    return Prober(networks=lambda: LOOPBACK_IS_NEAR, contained=lambda: False, **options)


# --- TCP --------------------------------------------------------------------------------------------------------------


async def test_a_connection_is_waited_for_until_the_program_listens(listen: Listen) -> None:
    port = free_port()
    asked = Asked(port=80, ways=[Candidate("127.0.0.1", port)])
    waiting = asked.wait()
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await listen(silent, port)
    assert await waiting == Candidate("127.0.0.1", port)
    assert asked.told == ["TCP :80"]


async def test_at_its_own_address_a_program_that_closes_at_once_is_ready(listen: Listen) -> None:
    way = Candidate("127.0.0.1", await listen(closing))
    assert await Asked(port=80, ways=[way]).wait() == way


async def test_behind_a_forwarder_a_connection_that_is_closed_at_once_is_not_readiness(listen: Listen) -> None:
    way = Candidate("127.0.0.1", await listen(closing), via_forwarder=True)
    with pytest.raises(NotReady) as refused:
        await Asked(port=80, ways=[way]).wait(0.5)
    assert refused.value.reason == "timeout"
    assert refused.value.waited_for == "TCP :80"
    assert "nothing listens behind it" in refused.value.last_failure


async def test_behind_a_forwarder_a_connection_that_stands_is_readiness(listen: Listen) -> None:
    way = Candidate("127.0.0.1", await listen(silent), via_forwarder=True)
    begun = time.monotonic()
    assert await Asked(port=80, ways=[way]).wait() == way
    assert time.monotonic() - begun >= readiness_tcp.SETTLE_TIME


async def test_behind_a_forwarder_one_byte_is_readiness_even_when_the_connection_ends(listen: Listen) -> None:
    async def greeting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"2")
        writer.close()

    way = Candidate("127.0.0.1", await listen(greeting), via_forwarder=True)
    assert await Asked(port=80, ways=[way]).wait() == way


async def test_the_own_address_wins_over_the_forwarder(listen: Listen) -> None:
    own = Candidate("127.0.0.1", await listen(silent))
    forwarder = Candidate("127.0.0.1", await listen(silent), via_forwarder=True)
    assert await Asked(port=80, ways=[own, forwarder]).wait(prober=near()) == own


async def test_a_neighbours_refusal_counts_more_than_a_forwarder_that_accepts(listen: Listen) -> None:
    own = Candidate("127.0.0.1", free_port())
    forwarder = Candidate("127.0.0.1", await listen(silent), via_forwarder=True)
    waiting = Asked(port=80, ways=[own, forwarder]).wait(prober=near())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await listen(silent, own.port)
    assert await waiting == own


async def test_the_forwarder_is_taken_where_there_is_no_way_to_the_own_address(listen: Listen) -> None:
    own = Candidate(FAR, free_port())  # refused, but by who knows whom: not a neighbour
    forwarder = Candidate("127.0.0.1", await listen(silent), via_forwarder=True)
    assert await Asked(port=80, ways=[own, forwarder]).wait(prober=near()) == forwarder


async def test_a_manager_in_a_container_leaves_the_hosts_published_ports_alone(listen: Listen) -> None:
    own = Candidate("127.0.0.1", free_port())
    forwarder = Candidate("127.0.0.1", await listen(silent), via_forwarder=True)
    prober = Prober(networks=lambda: (), contained=lambda: True)
    with pytest.raises(NotReady) as refused:
        await Asked(port=80, ways=[own, forwarder]).wait(0.4, prober)
    assert refused.value.last_failure == f"port {own.port} refuses connections"


async def test_an_address_that_comes_late_is_used(listen: Listen) -> None:
    asked = Asked(port=80)
    waiting = asked.wait()
    await asyncio.sleep(0.05)
    asked.ways.append(Candidate("127.0.0.1", await listen(silent)))
    assert await waiting == asked.ways[0]


async def test_an_address_that_never_comes_is_said() -> None:
    with pytest.raises(NotReady, match="no address is known at which port 80 could be reached"):
        await Asked(port=80).wait(0.1)


async def test_who_knows_the_way_already_may_say_so(listen: Listen) -> None:
    port = await listen(silent)
    target = ProbeTarget(flow_id="a" * 12, policy=None, ended=lambda: False, address=("127.0.0.1", port))
    told: list[str] = []
    prober = Prober()
    assert await prober.wait_ready(target, deadline=prober.now() + 5, told=told.append) == Candidate("127.0.0.1", port)
    assert told == [f"TCP :{port}"]


async def test_an_unanswered_attempt_is_given_up_and_made_again(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue of connections drops the SYN, as a container whose network is not up yet does."""
    monkeypatch.setattr(readiness_tcp, "CONNECT_TIMEOUT", 0.5)
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        way = Candidate("127.0.0.1", deaf.getsockname()[1])
        with pytest.raises(NotReady) as refused:
            await Asked(port=80, ways=[way]).wait(1.2)
        assert refused.value.last_failure == f"port {way.port} did not answer within 500 ms"


async def test_a_socket_joined_to_itself_does_not_count_and_leaves_the_port_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    plain = socket.socket

    def bound_to_its_goal(*arguments: Any) -> socket.socket:
        made = plain(*arguments)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        return made

    monkeypatch.setattr(readiness_tcp.socket, "socket", bound_to_its_goal)
    with pytest.raises(readiness_tcp.Failed, match="refuses connections"):
        await readiness_tcp.connect(Candidate("127.0.0.1", port))
    monkeypatch.undo()
    with socket.socket() as program:
        program.bind(("127.0.0.1", port))  # no TIME_WAIT is in its way


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def test_a_page_is_asked_until_it_says_yes(listen: Listen) -> None:
    port = await listen(http(b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 200 OK"))
    asked = Asked(ready={"http": {"port": 8080, "path": "/healthz"}}, port=8080, ways=[Candidate("127.0.0.1", port)])
    assert await asked.wait() == Candidate("127.0.0.1", port)
    assert asked.told == ["HTTP GET :8080/healthz"]


async def test_a_page_that_says_no_is_named_in_the_end(listen: Listen) -> None:
    port = await listen(http(b"HTTP/1.1 503 Service Unavailable"))
    asked = Asked(ready={"http": {"port": 80, "path": "/up"}}, ways=[Candidate("127.0.0.1", port)])
    with pytest.raises(NotReady) as refused:
        await asked.wait(0.2)
    assert (refused.value.waited_for, refused.value.last_failure) == ("HTTP GET :80/up", "GET /up answers 503")


async def test_what_speaks_no_http_is_not_ready(listen: Listen) -> None:
    async def ssh(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")

    with pytest.raises(NotReady, match="does not speak HTTP/1"):
        await Asked(ready={"http": {"port": 80}}, ways=[Candidate("127.0.0.1", await listen(ssh))]).wait(0.2)


async def test_a_page_that_hangs_is_asked_again(listen: Listen) -> None:
    asked_times = 0

    async def hangs_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked_times
        asked_times += 1
        await reader.readuntil(b"\r\n\r\n")
        if asked_times == 1:
            await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    await Asked(ready={"http": {"port": 80}}, ways=[Candidate("127.0.0.1", await listen(hangs_once))]).wait()
    assert asked_times == 2


async def test_a_page_behind_a_forwarder_is_not_believed_before_it_answers(listen: Listen) -> None:
    way = Candidate("127.0.0.1", await listen(closing), via_forwarder=True)
    with pytest.raises(NotReady):
        await Asked(ready={"http": {"port": 80}}, ways=[way]).wait(0.3)


async def test_the_way_found_by_a_page_on_another_port_is_the_way_to_the_flows_own(listen: Listen) -> None:
    probed = await listen(http(b"HTTP/1.1 200 OK"))
    ways = {
        9000: [Candidate("127.0.0.2", probed), Candidate("127.0.0.1", probed)],
        80: [Candidate("127.0.0.2", 80), Candidate("127.0.0.1", 81)],
    }
    target = ProbeTarget(
        flow_id="a" * 12,
        policy=IdlePolicy.model_validate({"ready": {"http": {"port": 9000}}}),
        ended=lambda: False,
        port=80,
        candidates=lambda port: ways[port],
    )
    prober = Prober(contained=lambda: False)
    found = await prober.wait_ready(target, deadline=prober.now() + 5, told=lambda _: None)
    assert found == Candidate("127.0.0.1", 81)


# --- health, channel, delay, running ----------------------------------------------------------------------------------


async def test_docker_health_is_followed_and_unhealthy_while_starting_is_still_starting() -> None:
    health = "none"
    asked = Asked(has_health=True, health=lambda: health)
    waiting = asked.wait()
    for said in ("starting", "unhealthy"):
        health = said
        await asyncio.sleep(0.05)
        assert not waiting.done()
    health = "healthy"
    assert await waiting is None
    assert asked.told == ["Docker health"]


async def test_health_that_never_comes_is_named() -> None:
    with pytest.raises(NotReady) as refused:
        await Asked(has_health=True, health=lambda: "unhealthy").wait(0.1)
    assert (refused.value.waited_for, refused.value.last_failure) == ("Docker health", "its health is unhealthy")


async def test_after_docker_health_the_way_that_answers_is_found(listen: Listen) -> None:
    ways = [Candidate("127.0.0.1", free_port()), Candidate("127.0.0.1", await listen(silent))]
    asked = Asked(has_health=True, health=lambda: "healthy", port=80, ways=ways)
    assert await asked.wait() == ways[1]


async def test_a_healthy_flow_that_listens_nowhere_yet_is_ready_and_its_likeliest_way_is_kept() -> None:
    ways = [Candidate(FAR, free_port()), Candidate("127.0.0.1", free_port()), Candidate("127.0.0.1", 9, True)]
    asked = Asked(has_health=True, health=lambda: "healthy", port=80, ways=ways)
    assert await asked.wait(prober=near()) == ways[1]


async def test_the_flows_own_word_is_waited_for_and_taken_at_once() -> None:
    ready = asyncio.Event()
    asked = Asked(ready={"channel": True}, channel_ready=ready)
    waiting = asked.wait()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    ready.set()
    assert await waiting is None


async def test_a_delay_passes_by_the_managers_clock() -> None:
    clock = FakeClock()
    asked = Asked(ready={"delay": 30})
    waiting = asked.wait(60, Prober(clock, sleep=clock.sleep))
    await clock.run(29.9)
    assert not waiting.done()
    await clock.run(0.2)
    await waiting
    assert asked.told == ["30 s after the start"]


async def test_a_delay_longer_than_the_deadline_is_in_vain() -> None:
    clock = FakeClock()
    waiting = Asked(ready={"delay": 30}).wait(10, Prober(clock, sleep=clock.sleep))
    await clock.run(10)
    with pytest.raises(NotReady, match="30 s after the start did not pass"):
        await waiting


async def test_several_must_all_pass_and_what_remains_is_said(listen: Listen) -> None:
    ready, port = asyncio.Event(), free_port()
    asked = Asked(
        ready={"channel": True, "tcp": 5432, "delay": 0.01}, channel_ready=ready, ways=[Candidate("127.0.0.1", port)]
    )
    waiting = asked.wait()
    await eventually(lambda: asked.told)
    ready.set()
    await eventually(lambda: len(asked.told) == 2)
    await listen(silent, port)
    await waiting
    assert asked.told == [
        "the flow's word `ready` on its channel and TCP :5432 and 0.01 s after the start",
        "TCP :5432 and 0.01 s after the start",
    ]


async def test_without_anything_to_ask_running_is_ready() -> None:
    asked = Asked()
    assert await asked.wait() is None
    assert asked.told == ["running"]


# --- ends in vain -----------------------------------------------------------------------------------------------------

IN_VAIN = {
    "tcp": {"tcp": 80},
    "http": {"http": {"port": 80}},
    "channel": {"channel": True},
    "delay": {"delay": 100},
    "health": None,
}


@pytest.mark.parametrize("waited", IN_VAIN)
async def test_the_flows_end_ends_the_wait_at_once(waited: str, listen: Listen) -> None:
    hanging = Candidate("127.0.0.1", await listen(silent))
    ways = [hanging if waited == "http" else Candidate("127.0.0.1", free_port())]
    asked = Asked(ready=IN_VAIN[waited], ways=ways, has_health=True, health=lambda: "starting")
    waiting = asked.wait(60)
    await asyncio.sleep(0.05)
    asked.over = True
    begun = time.monotonic()
    with pytest.raises(NotReady) as refused:
        await waiting
    assert refused.value.reason == "exited"
    assert time.monotonic() - begun < 10, "it may take a minute"


@pytest.mark.parametrize("waited", IN_VAIN)
async def test_the_deadline_ends_the_wait(waited: str, listen: Listen) -> None:
    hanging = Candidate("127.0.0.1", await listen(silent))
    ways = [hanging if waited == "http" else Candidate("127.0.0.1", free_port())]
    asked = Asked(ready=IN_VAIN[waited], ways=ways, has_health=True, health=lambda: "starting")
    begun = time.monotonic()
    with pytest.raises(NotReady) as refused:
        await asked.wait(0.15)
    assert refused.value.reason == "timeout"
    assert 0.1 < time.monotonic() - begun < 10


async def test_a_flow_that_ended_before_is_not_asked_at_all(listen: Listen) -> None:
    asked = Asked(port=80, ways=[Candidate("127.0.0.1", await listen(silent))])
    asked.over = True
    with pytest.raises(NotReady):
        await asked.wait()


@pytest.mark.parametrize("waited", IN_VAIN)
async def test_a_wait_that_is_cancelled_leaves_nothing(waited: str, listen: Listen) -> None:
    hanging = Candidate("127.0.0.1", await listen(silent), waited == "tcp")
    ways = [hanging, Candidate("127.0.0.1", free_port())] if waited in ("http", "tcp") else []
    before = asyncio.all_tasks()
    waiting = Asked(ready=IN_VAIN[waited], ways=ways, has_health=True, health=lambda: "starting").wait(60)
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {task for task in asyncio.all_tasks() - before if "connected" not in repr(task.get_coro())} == set()


async def test_an_attempt_that_fails_while_the_wait_is_cut_off_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at a shutdown in the middle of a wake, where a connection is refused in that very turn of the loop."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    under_way = asyncio.Event()

    async def refused_late(*_: Any, **__: Any) -> None:
        under_way.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise readiness.Failed("port 80 refuses connections") from None

    monkeypatch.setattr(readiness._Wait, "attempt", refused_late)
    waiting = Asked(ready={"tcp": 80}, ways=[Candidate("127.0.0.1", 80)]).wait(60)
    await under_way.wait()
    waiting.cancel()
    await asyncio.wait({waiting})
    del waiting  # with its trace, which holds the attempt
    gc.collect()
    assert told == []


# --- liveness ---------------------------------------------------------------------------------------------------------


async def test_a_flow_without_a_probe_is_alive() -> None:
    prober = Prober(SystemClock())
    assert await prober.alive(Asked().target)
    assert await prober.alive(Asked(ready={"channel": True, "delay": 1}).target)
    assert await prober.alive(Asked(port=80, ways=[Candidate("127.0.0.1", free_port())]).target)


@pytest.mark.parametrize(("head", "alive"), [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 500 x", False)])
async def test_a_page_decides_whether_a_flow_is_alive(listen: Listen, head: bytes, alive: bool) -> None:
    asked = Asked(ready={"http": {"port": 80}}, ways=[Candidate("127.0.0.1", await listen(http(head)))])
    assert await Prober().alive(asked.target) is alive


async def test_a_port_decides_whether_a_flow_is_alive(listen: Listen) -> None:
    assert await Prober().alive(Asked(ready={"tcp": 80}, ways=[Candidate("127.0.0.1", await listen(silent))]).target)
    assert not await Prober().alive(Asked(ready={"tcp": 80}, ways=[Candidate("127.0.0.1", free_port())]).target)
    assert not await Prober().alive(Asked(ready={"tcp": 80}).target)


async def test_a_page_that_hangs_is_not_alive(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.idle.readiness.ALIVE_TIMEOUT", 0.1)
    asked = Asked(ready={"http": {"port": 80}}, ways=[Candidate("127.0.0.1", await listen(silent))])
    assert not await Prober().alive(asked.target)
