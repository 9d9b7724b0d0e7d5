"""Which of the connections that wait is given out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from flow_manager.proxy.pool import FRESH_SECONDS, HASTY_FOR_SECONDS, HASTY_SECONDS, IDLE_SECONDS, Pool
from flow_manager.proxy.upstream import UpstreamConnection
from tests.unit.proxy.slow_fakes import FakeFlow

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Made = Callable[[], Awaitable[tuple[UpstreamConnection, socket.socket]]]


@pytest.fixture
def flow() -> FakeFlow:
    ready = FakeFlow()
    ready.be_ready()
    return ready


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()
    await asyncio.sleep(0)


@pytest.fixture
async def made(pool: Pool, flow: FakeFlow) -> AsyncIterator[Made]:
    """A connection that waits in the pool, and the flow's end of it."""
    ends: list[socket.socket] = []
    connections: list[UpstreamConnection] = []

    async def make() -> tuple[UpstreamConnection, socket.socket]:
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        assert flow.upstream is not None
        connection = UpstreamConnection(flow, flow.upstream)  # type: ignore[arg-type]
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
        connections.append(connection)
        pool.give(connection)
        return connection, theirs

    yield make
    for connection in connections:
        connection.abort()
    for end in ends:
        end.close()
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_one_that_was_used_last_is_given_out(pool: Pool, flow: Any, made: Made) -> None:
    _, (last, _) = await made(), await made()
    assert pool.take(flow, repeatable=False) is last


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_one_that_ended_a_moment_ago_is_not_for_what_can_not_be_repeated(
    pool: Pool, flow: Any, made: Made, said: bytes
) -> None:
    good, _ = await made()
    _, end = await made()
    end.sendall(said)
    end.close()
    # The loop has not turned since: it can't know yet.
    assert pool.take(flow, repeatable=False) is good
    assert len(pool) == 0


async def test_a_flow_that_gives_up_connections_at_once_gets_what_can_not_be_repeated_on_new_ones(
    pool: Pool, flow: Any, made: Made
) -> None:
    _, end = await made()
    end.close()
    assert pool.take(flow, repeatable=False) is None
    kept, _ = await made()
    assert pool.take(flow, repeatable=False) is None
    assert pool.take(flow, repeatable=True) is kept
    pool.give(kept)
    pool.sweep(HASTY_FOR_SECONDS - 1)
    await made()
    assert pool.take(flow, repeatable=False) is None
    pool.sweep(HASTY_FOR_SECONDS)
    fresh, _ = await made()
    assert pool.take(flow, repeatable=False) is fresh


async def test_a_flow_that_gives_them_up_after_a_while_is_not_hasty(pool: Pool, flow: Any, made: Made) -> None:
    connection, end = await made()
    end.close()
    async with asyncio.timeout(10):
        while connection.alive:  # noqa: ASYNC110 - the loop tells it in one of its turns
            await asyncio.sleep(0)
    pool.sweep(HASTY_SECONDS)
    kept, _ = await made()
    assert pool.take(flow, repeatable=False) is kept


async def test_what_can_be_repeated_takes_the_chance(pool: Pool, flow: Any, made: Made) -> None:
    connection, end = await made()
    end.close()
    assert pool.take(flow, repeatable=True) is connection


async def test_what_can_not_be_repeated_gets_none_that_has_waited(pool: Pool, flow: Any, made: Made) -> None:
    connection, _ = await made()
    pool.now += FRESH_SECONDS * 1.1
    assert pool.take(flow, repeatable=False) is None
    assert pool.take(flow, repeatable=True) is connection


async def test_those_that_waited_too_long_are_closed(pool: Pool, flow: Any, made: Made) -> None:
    _, end = await made()
    pool.sweep(IDLE_SECONDS + 1)
    assert len(pool) == 0
    end.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(end, 1) == b""
