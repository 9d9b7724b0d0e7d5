"""What a broken or hostile flow may send: the right answer, its own connection's end at most, and nothing for the others."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flow_manager.channel import flow as flow_module
from flow_manager.testing import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Connect = Callable[[], Awaitable[Any]]
PROOF = b'{"type":"message","id":"proof","body":"alive"}\n'


async def is_alive(flow: Any) -> bool:
    flow.write(PROOF)
    while frame := await flow.frame():
        if frame == {"type": "ack", "to": "proof"}:
            return True
    return False


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"[1,2,3]\n",
        b'"text"\n',
        b"\xff\xfe\x00\n",
        b'{"a":"\xc3\x28"}\n',
        b'{"a":NaN}\n',
        b'{"a":-Infinity}\n',
        b'{"a":1e400}\n',
        b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n",
        b"[" * 100_000 + b"\n",
        b'{"a":' + b"9" * 5000 + b"}\n",
        b'{"type":"busy","for":-1}\n',
        b"\x00" * 1000 + b"\n",
    ],
    ids=lambda line: repr(line[:12]),
)
async def test_a_bad_line_is_answered_and_the_connection_lives_on(
    handler: Any, connect: Connect, listener: Any, flow_id: str, line: bytes
) -> None:
    flow = await connect()
    flow.write(line)
    frame = await flow.frame()
    assert (frame["type"], frame["code"]) == ("error", "bad_frame")
    assert await is_alive(flow)
    assert [(call[0], call[2]) for call in listener.named("bad_frame")] == [(flow_id, 1)]


async def test_bad_lines_are_told_of_once_a_minute(
    handler: Any, connect: Connect, listener: Any, flow_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "BAD_FRAME_INTERVAL", 0.1)
    flow = await connect()
    for _ in range(5):
        flow.write(b"bad\n")
        await flow.frame()
    assert [call[2] for call in listener.named("bad_frame")] == [1]
    # The others are counted, and told of when the minute is over.
    assert [call[2] for call in await listener.heard("bad_frame", 2)] == [1, 4]


async def test_reconnecting_does_not_start_the_minute_anew(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    for _ in range(3):
        flow = await connect()
        flow.write(b"bad\n")
        await flow.frame()
    assert len(listener.named("bad_frame")) == 1
    await handler.cleanup_socket(flow_id)
    assert [call[2] for call in listener.named("bad_frame")] == [1, 2], "what was counted is told at the end"


@pytest.mark.parametrize("at_once", [True, False])
async def test_ten_bad_lines_a_second_end_the_connection(
    handler: Any, connect: Connect, listener: Any, flow_id: str, at_once: bool
) -> None:
    flow = await connect()
    if at_once:
        flow.write(b"bad\n" * 1000)
    else:
        for _ in range(10):
            flow.write(b"bad\n")
            assert (await flow.frame())["code"] == "bad_frame"
    codes = [frame["code"] for frame in await flow.frames_until_end()]
    assert set(codes) == {"bad_frame"}
    assert len(codes) == (11 if at_once else 1)
    await listener.heard("disconnected")
    assert await is_alive(await connect()), "it may come back"


async def test_a_line_without_end_is_cut_off_at_its_limit(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(max_line=64 * 1024)
    flow = await connect()
    flow.write(b'{"type":"message","id":"before","body":1}\n' + b"x" * (64 * 1024 + 1))
    frames = await flow.frames_until_end()
    assert [frame.get("code", frame["type"]) for frame in frames] == ["ack", "frame_too_large"]
    await listener.heard("disconnected")
    assert "longer than 65536" in listener.named("bad_frame")[0][1]
    assert not handler.is_socket_connected(flow_id)


async def test_a_line_of_exactly_the_limit_is_taken(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    await open_handler(max_line=2048)
    flow = await connect()
    start, end = b'{"x":"', b'"}'
    flow.write(start + b"y" * (2048 - len(start) - len(end)) + end + b"\n")
    assert len((await listener.heard("message"))[0][1]["x"]) == 2048 - len(start) - len(end)
    flow.write(start + b"y" * (2049 - len(start) - len(end)) + end + b"\n")
    assert [frame["code"] for frame in await flow.frames_until_end()] == ["frame_too_large"]


async def test_half_a_line_and_then_silence_ends_the_connection(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    await open_handler(partial_line_timeout=0.05)
    flow = await connect()
    flow.write(b'{"type":"mess')
    frames = await flow.frames_until_end()
    assert [frame["code"] for frame in frames] == ["bad_frame"]
    assert "half a line" in frames[0]["reason"]
    await listener.heard("disconnected")


async def test_one_byte_at_a_time_does_not_keep_half_a_line_open(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    await open_handler(partial_line_timeout=0.1)
    flow = await connect()

    async def drip() -> None:
        while True:
            flow.write_blindly(b"x")
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    try:
        assert [frame["code"] for frame in await flow.frames_until_end()] == ["bad_frame"]
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_whole_lines_one_byte_at_a_time_are_taken(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(partial_line_timeout=0.2)
    flow = await connect()
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0
    # Longer than the limit in all, and the socket is never between two lines for long: each line has its own time.
    while loop.time() - began < 0.5:
        line = b'{"n":%d}\n{' % count
        for byte in line[1 if count else 0 :]:
            flow.write(bytes([byte]))
            await asyncio.sleep(0)
        count += 1
        await listener.heard("message", count)
    assert handler.is_socket_connected(flow_id)


async def test_carriage_returns_and_a_byte_order_mark_are_tolerated(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    flow.write(b'\xef\xbb\xbf{"type":"ready"}\r\n\r\n\n{"a":1}\r\n')
    assert await listener.heard("message") == [(flow_id, {"a": 1})]
    assert listener.named("ready") == [(flow_id,)]
    assert listener.named("bad_frame") == []


async def test_a_flow_that_closes_its_half_still_gets_its_answer(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    flow.write(PROOF)
    flow.writer.write_eof()
    assert await flow.frames_until_end() == [{"type": "ack", "to": "proof"}]
    await listener.heard("disconnected")


async def test_half_a_line_at_the_end_is_no_message(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    flow.write(b'{"type":"message","body":1}')
    await flow.close()
    await listener.heard("disconnected")
    assert listener.named("message") == []


async def test_a_flood_of_connections_is_accepted_slowly_and_others_go_on(
    open_handler: Any, connect: Connect, listener: Any, sockets_dir: Path, flow_id: str
) -> None:
    handler = await open_handler()
    other = "bbbbccccdddd"
    other_path = await handler.setup_socket(other)
    flood: list[socket.socket] = []

    def one() -> None:
        try:
            flood[-1].connect(str(handler.socket_path(flow_id)))
        except BlockingIOError:
            pass  # the backlog is full

    try:
        for _ in range(200):
            flood.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            one()
            await asyncio.sleep(0)
        await listener.heard("connected", 20)
        reader, writer = await asyncio.open_unix_connection(str(other_path))
        writer.write(PROOF)
        async with asyncio.timeout(2):
            assert b"proof" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        taken = len([call for call in listener.named("connected") if call[0] == flow_id])
        assert taken <= 40, "a burst of twenty, then five a second"
        assert len(handler._channels[flow_id]._connections) <= 3
    finally:
        for connection in flood:
            connection.close()


async def test_descriptors_that_run_out_cost_a_pause_and_no_storm(
    open_handler: Any, listener: Any, flow_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handler = await open_handler()
    monkeypatch.setattr("flow_manager.channel.acceptor.ACCEPT_PAUSE", 0.2)
    server = handler._channels[flow_id].server._acceptor

    class Exhausted:
        tries = 0

        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def accept(self) -> Any:
            Exhausted.tries += 1
            if Exhausted.tries <= 2:
                raise OSError(24, "Too many open files")
            return self.real.accept()

    server._socket = Exhausted(server._socket)
    _, writer = await asyncio.open_unix_connection(str(handler.socket_path(flow_id)))
    await listener.heard("connected")
    assert Exhausted.tries == 3
    assert caplog.text.count("Too many open files") == 2
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "piece",
    [b"{}\n" * 20_000, b'{"type":"message","id":"x","body":1}\n' * 5_000, b"x" * 65536, b"\n" * 65536],
    ids=["messages", "messages to acknowledge", "no newline", "blank lines"],
)
async def test_a_flood_does_not_grow_memory_nor_stop_the_others(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str, piece: bytes
) -> None:
    handler = await open_handler()
    other = "bbbbccccdddd"
    reader, writer = await asyncio.open_unix_connection(str(await handler.setup_socket(other)))
    await listener.heard("connected")
    flow = await connect()
    transport = flow.writer.transport
    gc.collect()
    before = psutil.Process().memory_info().rss

    async def flood() -> None:
        # As fast as the socket takes it, and never reading a thing.
        for _ in range(200):
            flow.write(piece)
            await flow.writer.drain()
            await asyncio.sleep(0)

    began = asyncio.get_running_loop().time()
    flooding = asyncio.create_task(flood())
    try:
        for _ in range(20):
            writer.write(PROOF)
            async with asyncio.timeout(10):
                assert b"proof" in await reader.readline()
            await asyncio.sleep(0.01)
        # What is counted is the manager's: what waits on the flow's side of this process is taken off.
        grown = psutil.Process().memory_info().rss - before - transport.get_write_buffer_size()
        assert grown < 8 * 1024 * 1024
        # One second's allowance at once, and what came back since; not what the flow would like.
        taken = len([call for call in listener.named("message") if call[0] == flow_id])
        assert taken < 2000 * (1 + asyncio.get_running_loop().time() - began)
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        transport.abort()
        writer.close()
        await writer.wait_closed()
    await eventually(lambda: not handler.is_socket_connected(other))
