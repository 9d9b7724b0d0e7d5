"""A client that stops reading costs a bounded amount of memory and nobody else anything.

In python-socketio 1,500 events of 100 KB to a stalled client took 140 MB, and 29 MB were held 20 s after its ping timeout.
"""

from __future__ import annotations

import asyncio
import socket

import orjson
import pytest

LIMIT = 256 * 1024


async def stalled(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that subscribed and then reads no more, with small buffers of its own."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    writer.write(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    for text in (b"40", b'421["subscribe_activity"]'):
        writer.write(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    await asyncio.wait_for(reader.readuntil(b'"replayed":0'), 5)
    writer.transport.pause_reading()
    return reader, writer


async def test_a_stalled_client_is_cut_off_at_its_bound_and_the_others_get_everything(serving, connect, eventually):
    async with serving(limits={"client_buffer": LIMIT}) as service, connect(service.url) as good:
        await good.call("subscribe_activity")
        _, writer = await stalled(service.port)
        [slow] = [item for item in service.engine.sockets.values() if item.sid != good.sio.eio.sid]
        outbox, most = slow.queue, 0
        for number in range(300):
            service.stream.add(text="x" * 50_000)
            most = max(most, outbox.pending_bytes)
            await good.wait_for("activity", number + 1)
        assert service.gateway.client_count == 1
        assert most <= LIMIT + 64 * 1024
        assert outbox.pending_bytes <= 1024
        assert len(service.log.notices) == 1
        assert [entry["cursor"] for entry in good.of("activity")] == list(range(1, 301))
        writer.close()


async def test_a_polling_client_that_never_polls_is_cut_off_too(serving, eventually):
    import aiohttp

    async with serving(limits={"client_buffer": LIMIT}) as service, aiohttp.ClientSession() as session:
        base = f"{service.url}/socket.io/?EIO=4&transport=polling"
        async with session.get(base) as response:
            sid = orjson.loads((await response.text())[1:])["sid"]
        async with session.post(f"{base}&sid={sid}", data='40\x1e421["subscribe_activity"]') as response:
            assert response.status == 200
        await eventually(lambda: len(service.gateway._publisher) == 1)
        for _ in range(20):
            service.stream.add(text="x" * 50_000)
        await eventually(lambda: service.gateway.client_count == 0)
        async with session.get(f"{base}&sid={sid}") as response:
            assert response.status == 400


async def test_acknowledgements_to_a_client_that_does_not_read_are_bounded_too(serving, eventually):
    async with serving(limits={"client_buffer": 64 * 1024}) as service:
        _, writer = await stalled(service.port)
        for name in range(200):
            service.manager.flows[str(name)] = {
                "id": str(name),
                "name": f"f{name}",
                "tenant": "default",
                "state": "created",
            }
        text = b'421["list_containers"]'
        for _ in range(400):
            if not service.gateway.client_count:
                break
            writer.write(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
            await asyncio.sleep(0)
        await eventually(lambda: service.gateway.client_count == 0)
        writer.close()


async def test_a_client_that_reads_again_gets_the_newest_status_and_every_entry(serving, eventually):
    async with serving(limits={"client_buffer": 4 * 1024 * 1024}) as service:
        reader, writer = await stalled(service.port)
        service.manager.flows["f"] = {"id": "f", "name": "f", "tenant": "default", "state": "created"}
        flow = service.manager.flows["f"]
        [slow] = service.engine.sockets.values()
        while slow.queue.empty():  # until the kernel and the transport take no more
            service.stream.add(text="x" * 50_000)
            await asyncio.sleep(0)
        entries = service.stream.head + 1
        for number in range(100):
            flow["state"] = "running" if number % 2 == 0 else "exited"
            service.gateway.publish_status("default", service.manager._status(flow))
        service.stream.add(last=True)
        writer.transport.resume_reading()
        got = b""
        while b'"last":true' not in got:
            got += await asyncio.wait_for(reader.read(65536), 5)
        assert got.count(b'["activity"') == entries
        assert got.count(b'["container_status"') == 1
        assert b'"state":"exited"' in got
        writer.close()


@pytest.mark.parametrize("size", [10, 200, 70_000])
async def test_frames_written_directly_and_by_aiohttp_never_mix(service, raw, size):
    """Pings of the WebSocket are answered by aiohttp, on the same transport, between our own frames."""
    client = await raw()
    await client.send('421["subscribe_activity"]')
    await client.until("43")
    for number in range(30):
        await client.ws.ping(b"x" * 100)
        service.stream.add(text="x" * size, number=number)
        await client.send('427["list_containers"]')
        service.stream.add(text="y" * size)
    seen = []
    while len(seen) < 60:
        text = await client.receive()
        if text.startswith("42"):
            seen.append(orjson.loads(text[2:])[1]["cursor"])
        else:
            assert text.startswith("437")
    assert seen == list(range(1, 61))
