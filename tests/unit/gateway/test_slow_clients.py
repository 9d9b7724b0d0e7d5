"""The outbox of one client, over a transport that takes what the test says."""

from __future__ import annotations

import asyncio

import pytest
from engineio import packet

from flow_manager.gateway.frames import Frame, binary_event_frame, websocket_text
from flow_manager.gateway.slow_clients import DIRECT_BOUND, Outbox


class FakeTransport:
    def __init__(self) -> None:
        self.pending = 0
        self.written: list[bytes] = []
        self.closing = False

    def get_write_buffer_size(self) -> int:
        return self.pending

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)


class FakeSocket:
    """aiohttp's side: sends when `room` is set."""

    compress = 0

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.room = asyncio.Event()

    async def send_frame(self, payload: bytes, _opcode: int) -> None:
        await self.room.wait()
        self.transport.write(websocket_text(payload))


def connected(limit: int = 1_000_000) -> tuple[Outbox, FakeTransport, FakeSocket]:
    outbox, transport = Outbox(limit), FakeTransport()
    websocket = FakeSocket(transport)
    outbox.attach(websocket, transport)
    return outbox, transport, websocket


async def emptied(outbox: Outbox) -> None:
    async with asyncio.timeout(5):
        while not outbox.empty() or outbox._pump is not None:  # noqa: ASYNC110 - steps of the loop, not time
            await asyncio.sleep(0)


async def test_frames_go_straight_to_a_transport_that_has_room():
    outbox, transport, _ = connected()
    outbox.put_nowait(Frame(b"42one"))
    outbox.put_nowait(packet.Packet(packet.PING))
    assert transport.written == [websocket_text(b"42one"), websocket_text(b"2")]
    assert outbox.empty()


async def test_what_comes_while_the_transport_is_full_waits_and_keeps_its_order():
    outbox, transport, websocket = connected()
    transport.pending = DIRECT_BOUND + 1
    for name in (b"1", b"2"):
        outbox.put_nowait(Frame(name))
    transport.pending = 0
    outbox.put_nowait(Frame(b"3"))
    assert transport.written == []
    websocket.room.set()
    await emptied(outbox)
    outbox.put_nowait(Frame(b"4"))
    assert transport.written == [websocket_text(name) for name in (b"1", b"2", b"3", b"4")]


async def test_what_waited_before_the_websocket_is_sent_first():
    outbox, transport = Outbox(10**6), FakeTransport()
    websocket = FakeSocket(transport)
    websocket.room.set()
    outbox.put_nowait(Frame(b"early"))
    outbox.attach(websocket, transport)
    outbox.put_nowait(Frame(b"late"))
    await emptied(outbox)
    assert transport.written == [websocket_text(b"early"), websocket_text(b"late")]


async def test_frames_of_one_key_replace_each_other_while_they_wait():
    outbox = Outbox(10**6)
    for text, key in ((b"a1", "a"), (b"b1", "b"), (b"x", None), (b"a2 longer", "a"), (b"y", None)):
        outbox.put_nowait(Frame(text, key))
    got = [outbox.get_nowait().payload for _ in range(outbox.qsize())]
    assert got == [b"a2 longer", b"b1", b"x", b"y"]
    assert outbox.pending_bytes == 0
    outbox.put_nowait(Frame(b"a3", "a"))
    assert outbox.get_nowait().payload == b"a3"


async def test_past_its_bound_it_says_so_once_it_is_discarded_it_takes_nothing():
    outbox = Outbox(1000)
    overflows = []
    outbox.on_overflow = lambda: (overflows.append(outbox.pending_bytes), outbox.discard())
    for _ in range(5):
        outbox.put_nowait(Frame(b"x" * 400))
    assert overflows == [1200]
    assert await outbox.get() is None
    assert outbox.empty()
    assert outbox.pending_bytes == 0


async def test_bytes_in_the_transport_count():
    outbox, transport, _ = connected(limit=100_000)
    overflows = []
    outbox.on_overflow = lambda: overflows.append(True)
    transport.pending = 99_999
    outbox.put_nowait(Frame(b"xx"))
    assert overflows == [True]
    outbox.discard()
    assert outbox.pending_bytes <= 256


async def test_many_frames_are_written_at_once_or_wait_one_by_one():
    outbox, transport, websocket = connected()
    frames = [Frame(b"a"), Frame(b"b")]
    wire = b"".join(frame.wire for frame in frames)
    outbox.send_all(frames, wire)
    assert transport.written == [wire]
    transport.pending = DIRECT_BOUND + 1
    outbox.send_all(frames, wire)
    assert outbox.qsize() == 2
    websocket.room.set()
    await emptied(outbox)
    assert transport.written == [wire, frames[0].wire, frames[1].wire]


async def test_nothing_is_written_to_a_closing_transport():
    outbox, transport, _ = connected()
    transport.closing = True
    outbox.put_nowait(Frame(b"a"))
    outbox.send_all([Frame(b"a")], b"a")
    assert transport.written == []


async def test_a_connection_that_breaks_while_frames_wait_leaves_no_task():
    outbox, transport, websocket = connected()

    async def broken(_payload: bytes, _opcode: int) -> None:
        raise ConnectionResetError

    websocket.send_frame = broken
    transport.pending = DIRECT_BOUND + 1
    outbox.put_nowait(Frame(b"a"))
    await emptied(outbox)
    outbox.discard()
    assert outbox._pump is None


async def test_a_compressed_websocket_is_not_written_to_directly():
    outbox, transport = Outbox(1000), FakeTransport()
    websocket = FakeSocket(transport)
    websocket.compress = 15
    with pytest.raises(ValueError, match="compressed"):
        outbox.attach(websocket, transport)


@pytest.mark.parametrize("attached", [False, True])
async def test_one_large_frame_alone_is_no_sign_of_a_slow_client_and_what_comes_beside_it_has_its_bound(attached):
    outbox, transport, overflows = Outbox(100_000), FakeTransport(), []
    if attached:
        outbox.attach(FakeSocket(transport), transport)
    outbox.on_overflow = lambda: overflows.append(True)
    outbox.put_nowait(Frame(b"x" * 1_000_000))
    transport.pending = 1_000_000 if attached else 0
    for _ in range(9):
        outbox.put_nowait(Frame(b"y" * 10_000))
    assert overflows == []
    outbox.put_nowait(Frame(b"y" * 10_001))
    assert overflows == [True]
    outbox.discard()


async def test_large_replies_wait_for_their_turn_and_small_ones_do_not(monkeypatch):
    monkeypatch.setattr("flow_manager.gateway.slow_clients.LOOK_AGAIN", 0)
    outbox, transport, _ = connected(limit=1_000_000)
    overflows, order = [], []
    outbox.on_overflow = lambda: overflows.append(True)

    async def reply(name: bytes) -> None:
        await outbox.turn(900_000)
        outbox.put_nowait(Frame(name * 900_000))
        transport.pending = 900_000
        order.append(name)

    replies = [asyncio.create_task(reply(name)) for name in (b"a", b"b", b"c")]
    for expected in ([b"a"], [b"a", b"b"], [b"a", b"b", b"c"]):
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == expected
        await outbox.turn(DIRECT_BOUND)
        transport.pending = 0
    await asyncio.gather(*replies)
    assert overflows == []


async def test_a_client_that_never_takes_anything_is_given_no_more_turns(monkeypatch):
    monkeypatch.setattr("flow_manager.gateway.slow_clients.TURN_SECONDS", 0)
    outbox, transport, _ = connected(limit=100_000)
    overflows = []
    outbox.on_overflow = lambda: overflows.append(True)
    transport.pending = 90_000
    await outbox.turn(DIRECT_BOUND + 1)
    outbox.put_nowait(Frame(b"x" * (DIRECT_BOUND + 1)))
    assert overflows == [True]
    outbox.discard()
    await outbox.turn(10**9)


async def test_a_binary_event_is_written_whole_whatever_waits_beside_it():
    outbox, transport, websocket = connected()
    outbox.put_nowait(binary_event_frame("terminal_output", b'"offset":0', "data", b"one"))
    assert transport.written[0].endswith(b"\x82\x03one")
    transport.pending = DIRECT_BOUND + 1
    outbox.put_nowait(binary_event_frame("terminal_output", b'"offset":3', "data", b"two"))
    outbox.put_nowait(Frame(b"42next"))
    transport.pending = 0
    websocket.room.set()
    await emptied(outbox)
    kinds = [written[2:6] for written in transport.written[1:]]
    assert kinds == [b"451-", b"two", b"42ne"]


async def test_a_binary_event_is_two_packets_for_long_polling_which_stay_together():
    frame = binary_event_frame("terminal_output", b'"offset":0', "data", b"\x00\xff")
    assert [packet.encode(b64=True) for packet in frame.packets()] == [
        '451-["terminal_output",{"offset":0,"data":{"_placeholder":true,"num":0}}]',
        "bAP8=",
    ]


async def test_room_is_there_once_the_client_has_taken_what_waits_or_is_gone():
    outbox, transport, websocket = connected()
    transport.pending = DIRECT_BOUND + 1
    outbox.put_nowait(Frame(b"x" * 5000))
    waiting = asyncio.create_task(outbox.room(1000))
    await asyncio.sleep(0)
    assert not waiting.done()
    transport.pending = 0
    websocket.room.set()
    async with asyncio.timeout(5):
        await waiting
    transport.pending = DIRECT_BOUND + 1
    other = asyncio.create_task(outbox.room(1000))
    await asyncio.sleep(0)
    outbox.discard()
    async with asyncio.timeout(5):
        await other
