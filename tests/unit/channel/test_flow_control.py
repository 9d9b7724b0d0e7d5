"""A flow that does not read, and one that talks too much: both wait, nobody else does, and memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flow_manager.errors import NotConnected, QueueFull, ReplyTimeout
from flow_manager.testing import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Connect = Callable[[], Awaitable[Any]]
BIG = {"x": "y" * 60_000}


async def not_reading(connect: Connect) -> Any:
    flow = await connect()
    flow.writer.transport.pause_reading()
    return flow


async def block(handler: Any, flow_id: str) -> int:
    """Send until the socket takes no more; gives the number of messages that were delivered."""
    for count in range(100):
        try:
            await handler.send_message(flow_id, BIG, timeout=0.02)
        except ReplyTimeout as error:
            assert error.details["waited_for"] == "write"
            return count
    raise AssertionError("the socket never blocked")


async def test_a_flow_that_does_not_read_is_a_write_time_out(open_handler: Any, connect: Connect, flow_id: str) -> None:
    handler = await open_handler(write_timeout=0.05)
    await not_reading(connect)
    await block(handler, flow_id)
    with pytest.raises(ReplyTimeout, match="did not read") as caught:
        await handler.send_message(flow_id, {}, expect_reply=True, timeout=10)
    assert caught.value.details == {
        "waited_for": "write",
        "timeout": 0.05,
        "message_id": caught.value.details["message_id"],
    }


async def test_too_much_for_a_flow_that_does_not_read_is_queue_full(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    handler = await open_handler(outbox=65536, write_timeout=5)
    await not_reading(connect)
    await block(handler, flow_id)
    first = asyncio.create_task(handler.send_message(flow_id, BIG))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await handler.send_message(flow_id, BIG)
    assert caught.value.details["limit"] == 65536
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    # What was given up makes room again.
    again = asyncio.create_task(handler.send_message(flow_id, BIG))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_what_timed_out_before_it_was_written_never_arrives_and_the_rest_keeps_its_order(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    handler = await open_handler(write_timeout=5)
    flow = await not_reading(connect)
    delivered = await block(handler, flow_id)
    kept = [asyncio.create_task(handler.send_message(flow_id, {"kept": n})) for n in range(3)]
    with pytest.raises(ReplyTimeout):
        await handler.send_message(flow_id, {"given": "up"}, timeout=0.02)
    kept += [asyncio.create_task(handler.send_message(flow_id, {"kept": n})) for n in range(3, 6)]
    await asyncio.sleep(0)
    flow.writer.transport.resume_reading()
    # One more than was delivered: it was part-written when its time was over, and half a line can't be taken back.
    for _ in range(delivered + 1):
        assert (await flow.frame())["body"] == BIG
    assert [(await flow.frame())["body"] for _ in kept] == [{"kept": n} for n in range(6)]
    assert all(delivery.delivered for delivery in await asyncio.gather(*kept))


async def test_when_a_flow_reads_again_its_acks_and_replies_are_waited_for_as_ever(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    handler = await open_handler()
    flow = await not_reading(connect)
    await block(handler, flow_id)
    asking = asyncio.create_task(handler.send_message(flow_id, {"question": 1}, expect_reply=True))
    await asyncio.sleep(0)
    flow.writer.transport.resume_reading()
    while (frame := await flow.frame())["body"] != {"question": 1}:
        pass
    await flow.say(type="reply", to=frame["id"], body={"answer": 2})
    assert (await asking).reply == {"answer": 2}


async def test_a_blocked_connection_that_is_taken_over_does_not_linger(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler()
    await not_reading(connect)
    await block(handler, flow_id)
    waiting = asyncio.create_task(handler.send_message(flow_id, {}))
    await asyncio.sleep(0)
    await connect()
    with pytest.raises(NotConnected):
        await waiting
    await eventually(lambda: len(handler._channels[flow_id]._connections) == 1)


async def test_closing_does_not_wait_for_a_flow_that_does_not_read(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    handler = await open_handler()
    await not_reading(connect)
    await block(handler, flow_id)
    async with asyncio.timeout(1):
        await handler.close()


async def test_two_long_lines_that_cross_each_other_do_not_block_for_ever(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    # A flow with one thread: it reads only once its own line is written.
    handler = await open_handler()
    flow = await not_reading(connect)
    sending = asyncio.create_task(handler.send_message(flow_id, {"x": "y" * 900_000}))
    await asyncio.sleep(0)
    flow.write(b'{"z":"' + b"z" * 900_000 + b'"}\n')
    async with asyncio.timeout(5):
        await flow.writer.drain()
        await listener.heard("message")
        flow.writer.transport.resume_reading()
        assert (await sending).delivered


async def test_a_flow_that_reads_none_of_its_answers_is_not_read_until_it_does(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(messages_per_second=1e6)
    flow = await not_reading(connect)
    line = b'{"type":"message","id":"' + b"i" * 200 + b'","body":1}\n'
    writing = asyncio.create_task(write_all(flow, line, 20_000))
    connection = handler._channels[flow_id].connection
    await eventually(lambda: not connection._reading, timeout=10)
    heard = len(listener.named("message"))
    assert heard < 20_000
    flow.writer.transport.resume_reading()
    reading = asyncio.create_task(read_all(flow, 20_000))
    async with asyncio.timeout(20):
        await writing
        await reading
    assert len(listener.named("message")) == 20_000


async def write_all(flow: Any, line: bytes, count: int) -> None:
    for _ in range(count // 100):
        flow.write(line * 100)
        await flow.writer.drain()


async def read_all(flow: Any, count: int) -> None:
    for _ in range(count):
        await flow.reader.readline()


async def test_a_flow_that_talks_too_much_is_read_at_its_allowance_and_loses_nothing(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    await open_handler(messages_per_second=100)
    flow = await connect()
    loop = asyncio.get_running_loop()
    began = loop.time()
    flow.write(b"".join(b'{"n":%d}\n' % number for number in range(150)))
    await listener.heard("message", 100)
    assert loop.time() - began < 0.9, "a second's worth comes at once"
    messages = await listener.heard("message", 150)
    assert loop.time() - began > 0.4
    assert [body["n"] for _, body in messages] == list(range(150))


async def test_answers_that_we_asked_for_do_not_count(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(messages_per_second=10)
    flow = await connect()
    await flow.say(type="hello", acks=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(60):
        asking = asyncio.create_task(handler.send_message(flow_id, {}, expect_reply=True))
        frame = await flow.frame()
        await flow.say(type="ack", to=frame["id"])
        await flow.say(type="reply", to=frame["id"], body={})
        await asking
    assert loop.time() - began < 4.5, "sixty would take five seconds more than the first ten"
