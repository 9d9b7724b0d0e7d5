"""Frames, byte by byte, and read back by a WebSocket library that isn't ours."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketReader
from engineio.payload import Payload

from flow_manager.gateway.frames import Frame, ack_frame, event_frame, websocket_text


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
async def test_a_frame_is_what_a_websocket_library_reads(size):
    loop = asyncio.get_running_loop()
    queue = WebSocketDataQueue(BaseProtocol(loop), 2**20, loop=loop)
    reader = WebSocketReader(queue, 10**6, compress=False, decode_text=True)
    payload = b"x" * size
    reader.feed_data(websocket_text(payload) + websocket_text(b"next"))
    for expected in (payload.decode(), "next"):
        message = await queue.read()
        assert (message.type, message.data) == (WSMsgType.TEXT, expected)


def test_an_event_and_an_acknowledgement_have_their_packets_form():
    assert event_frame("activity", b'{"cursor":1}').payload == b'42["activity",{"cursor":1}]'
    assert ack_frame(7, b'{"error":false}').payload == b'437[{"error":false}]'
    assert ack_frame(7, b"{}", "/admin").payload == b"43/admin,7[{}]"


def test_a_frame_travels_in_a_long_polling_payload():
    frames = [event_frame("a", '"ü"'.encode()), Frame(b"2")]
    assert Payload(packets=frames).encode() == '42["a","ü"]\x1e2'
