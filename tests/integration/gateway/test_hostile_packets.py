"""What no honest client sends. Each was measured to kill a connection, hang its sender or hurt others in the libraries beneath."""

from __future__ import annotations

import asyncio
import contextlib
import time

import orjson
import pytest

ACK = "437"


def reply(text: str) -> dict:
    assert text.startswith(ACK), text
    return orjson.loads(text[len(ACK) :])[0]


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        ('427["get_status",{"container_id":NaN}]', "invalid_request"),
        ('427["get_status",{"container_id":Infinity}]', "invalid_request"),
        ('427["get_status",{"container_id":1e400}]', "invalid_request"),
        ('427["get_status",{"container_id":123456789012345678901234567890}]', "invalid_request"),
        ('427["get_status",{"container_id":"\\ud800"}]', "invalid_request"),
        ('427["get_status",' + "[" * 33 + "]" * 33 + "]", "invalid_request"),
        ('427["get_status",' + "[" * 100_000 + "]" * 100_000 + "]", "invalid_request"),
        ('427["get_status",{"container_id":' + "9" * 100_000 + "}]", "invalid_request"),
        ("427[", "invalid_request"),
        ("427", "invalid_request"),
        ("427{}", "invalid_request"),
        ("427[]", "invalid_request"),
        ("427[1]", "invalid_request"),
        ("427[null,{}]", "invalid_request"),
        ('427[["get_status"],{}]', "invalid_request"),
        ('427[""]', "invalid_request"),
        ('427["' + "x" * 129 + '"]', "invalid_request"),
        ('427["get_status",{},{}]', "invalid_request"),
        ('427["connect",{"aiohttp.request":1},{"token":"x"}]', "invalid_request"),
        ('427["disconnect","server disconnect"]', "invalid_request"),
        ('4517-7["get_status",{"container_id":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('4599999999-7["get_status",{"_placeholder":true,"num":0}]', "invalid_request"),
        ('451-7["get_status",{"container_id":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('451-7["no_such_event",{"data":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('450-7["terminal_input",{"terminal_id":"t0","data":"x"}]', "invalid_request"),
        ('457["terminal_input",{"terminal_id":"t0","data":"x"}]', "invalid_request"),
        ('421-7["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('452-7["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('451-7["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":1}}]', "invalid_request"),
        ('451-7["terminal_input",{"terminal_id":{"_placeholder":true,"num":0},"data":"x"}]', "invalid_request"),
        ('451-7["terminal_input",{"terminal_id":"t0","data":[{"_placeholder":true,"num":0}]}]', "invalid_request"),
        ('451-7["terminal_input",{"_placeholder":true,"num":0}]', "invalid_request"),
        ('451-7["terminal_input",[{"_placeholder":true,"num":0}]]', "invalid_request"),
        ('427["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":0}}]', "invalid_request"),
        ('427["get_status",{"__proto__":{},"container_id":"x"}]', "invalid_request"),
        ('427["*",{}]', "unknown_event"),
        ('427["handle_get_status",{}]', "unknown_event"),
        ('427["hello",{}]', "unknown_event"),
        ('427["get_status",{"container_id":"' + "x" * 300_000 + '"}]', "payload_too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refused_event_is_acknowledged_and_the_connection_lives_on(service, raw, packet, code):
    client = await raw()
    await client.send(packet)
    refusal = reply(await client.until("43"))
    assert (refusal["error"], refusal["code"], refusal["error_type"]) == (True, code, "validation_error")
    await client.send('427["list_containers"]')
    assert reply(await client.until("43")) == {"error": False, "data": []}


@pytest.mark.parametrize(
    "packet",
    ["49", "4", "42x", "4-1", "42" + "9" * 200 + '["x"]', "44{}", "46[]", "4/x", "9", "x", "2probe", "b!", "bA"],
)
async def test_what_is_no_packet_is_told_as_an_error_and_the_connection_lives_on(service, raw, packet):
    client = await raw()
    await client.send(packet)
    assert orjson.loads((await client.until('42["error"'))[2:])[1]["code"] == "invalid_request"
    await client.send('427["list_containers"]')
    assert reply(await client.until("43"))["error"] is False
    assert service.log.errors == []


async def test_binary_that_nobody_asked_for_is_dropped(service, raw):
    client = await raw()
    await client.ws.send_bytes(b"x" * 100_000)
    await client.send('427["list_containers"]')
    assert reply(await client.until("43"))["error"] is False


INPUT = '451-7["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":0}}]'


async def typing(service, raw, *, echo=False):
    service.terminals.echo = echo
    client = await raw()
    await client.send('427["attach_container",{"container_id":"x"}]')
    assert reply(await client.until("43"))["data"] == {"terminal_id": "t0", "offset": 0}
    return client


async def test_an_attachment_fills_its_place_and_nothing_else(service, raw):
    client = await typing(service, raw, echo=True)
    await client.send(INPUT)
    await client.ws.send_bytes(b"\x00\xff{}")
    assert await client.until("451-") == (
        '451-["terminal_output",{"terminal_id":"t0","offset":0,"data":{"_placeholder":true,"num":0}}]'
    )
    assert (await client.ws.receive()).data == b"\x00\xff{}"
    assert reply(await client.until("43")) == {"error": False, "data": {}}
    assert service.terminals.typed == [b"\x00\xff{}"]


@pytest.mark.parametrize("other", ['428["list_containers"]', INPUT, "41", "44{}", '451-8["x",{}]'])
async def test_a_header_whose_attachment_does_not_come_next_is_refused_and_takes_no_other(service, raw, other):
    client = await typing(service, raw)
    await client.send(INPUT)
    await client.send(other)
    refusal = reply(await client.until("437"))
    assert (refusal["code"], refusal["details"]["event"]) == ("invalid_request", "terminal_input")
    assert service.terminals.typed == []


async def test_attachments_of_a_refused_event_are_never_taken_for_another(service, raw):
    client = await typing(service, raw)
    await client.send('453-9["terminal_input",{"terminal_id":"t0","data":{"_placeholder":true,"num":0}}]')
    for number in range(3):
        await client.ws.send_bytes(b"refused %d" % number)
    await client.send(INPUT)
    await client.ws.send_bytes(b"taken")
    await client.ws.send_bytes(b"of nobody")
    assert reply(await client.until("437")) == {"error": False, "data": {}}
    assert service.terminals.typed == [b"taken"]


async def test_an_attachment_over_the_bound_is_refused_and_the_connection_lives_on(service, raw):
    client = await typing(service, raw)
    await client.send(INPUT)
    await client.ws.send_bytes(b"x" * (256 * 1024 + 1))
    refusal = reply(await client.until("437"))
    assert (refusal["code"], refusal["details"]["limit"]) == ("payload_too_large", 256 * 1024)
    await client.send(INPUT)
    await client.ws.send_bytes(b"small")
    assert reply(await client.until("437"))["error"] is False
    assert service.terminals.typed == [b"small"]


async def test_a_header_whose_attachment_never_comes_is_answered_in_time(service, raw, monkeypatch):
    monkeypatch.setattr("flow_manager.gateway.engine_socket.ATTACHMENT_TIMEOUT", 0.1)
    client = await typing(service, raw)
    await client.send(INPUT)
    refusal = reply(await client.until("437"))
    assert (refusal["code"], refusal["details"]["event"]) == ("invalid_request", "terminal_input")
    await client.ws.send_bytes(b"too late")
    monkeypatch.undo()
    await client.send(INPUT)
    await client.ws.send_bytes(b"in time")
    assert reply(await client.until("437"))["error"] is False
    assert service.terminals.typed == [b"in time"]


async def test_an_attachment_that_came_is_waited_for_no_longer(service, raw, monkeypatch):
    monkeypatch.setattr("flow_manager.gateway.engine_socket.ATTACHMENT_TIMEOUT", 1.0)
    client = await typing(service, raw)
    for _ in range(2):
        await client.send(INPUT)
        await client.ws.send_bytes(b"in time")
        assert reply(await client.until("437"))["error"] is False
    await asyncio.sleep(1.2)  # past the time that each header was given
    await client.send('428["list_containers"]')
    assert (await client.receive()).startswith("438[")


async def test_a_ping_between_a_header_and_its_attachment_disturbs_nothing(service, raw):
    client = await typing(service, raw)
    await client.send(INPUT)
    await client.send("3")
    await client.ws.send_bytes(b"taken")
    assert reply(await client.until("437"))["error"] is False


async def test_binary_before_connect_is_nobodys(service, raw):
    client = await raw(connect=False)
    await client.send(INPUT)
    await client.ws.send_bytes(b"x")
    assert reply(await client.until("437"))["code"] == "unauthorized"


async def test_text_that_is_not_utf8_is_refused(service, raw):
    client = await raw()
    await client.ws.send_frame(b'427["get_status",{"container_id":"\xff"}]', 1)
    assert reply(await client.until("43"))["code"] == "invalid_request"


async def test_a_message_over_four_mebibytes_closes_the_connection(service, raw):
    client = await raw()
    with contextlib.suppress(ConnectionError):  # it may be closed while we still write
        await client.send('427["list_containers",{"x":"' + "x" * (4 * 1024 * 1024) + '"}]')
    assert await client.receive() is None
    assert service.gateway.client_count == 0


async def test_an_event_before_connect_is_answered_with_unauthorized(service, raw):
    client = await raw(connect=False)
    await client.send('427["list_containers"]')
    assert reply(await client.until("43"))["code"] == "unauthorized"


async def test_an_event_in_a_namespace_that_is_not_there_is_answered(service, raw):
    client = await raw()
    await client.send('42/admin,7["list_containers"]')
    text = await client.until("43/admin,7[")
    assert orjson.loads(text[len("43/admin,7") :])[0]["code"] == "unauthorized"


async def test_a_connect_to_another_namespace_is_refused(service, raw):
    client = await raw()
    await client.send("40/admin,{}")
    refusal = orjson.loads((await client.until("44/admin,"))[len("44/admin,") :])
    assert (refusal["data"]["code"], refusal["message"]) == ("invalid_request", refusal["data"]["message"])


async def test_a_second_connect_does_not_make_a_second_client(service, raw):
    client = await raw()
    await client.send("40")
    await client.until("44")
    assert service.gateway.client_count == 1
    assert len(service.log.named("connect")) == 1


async def test_nonsense_before_connect_closes_the_connection(service, raw):
    client = await raw(connect=False)
    await client.send("4garbage")
    assert await client.receive() is None
    assert service.engine.sockets == {}


async def test_a_connection_that_never_sends_connect_is_closed(serving, raw):
    async with serving(limits={"connect_deadline": 0.2}) as service:
        client = await raw(service.url, connect=False)
        assert len(service.engine.sockets) == 1
        assert await client.receive() is None
        assert service.engine.sockets == {}


async def test_a_client_that_connected_outlives_the_deadline_and_one_that_left_the_namespace_does_not(serving, raw):
    async with serving(limits={"connect_deadline": 0.3}) as service:
        stays, leaves = await raw(service.url), await raw(service.url)
        await leaves.send("41")
        assert await leaves.receive() is None
        await stays.send('427["list_containers"]')
        assert reply(await stays.until("43"))["error"] is False


async def test_connections_that_have_not_authenticated_are_capped(serving, raw):
    import aiohttp

    async with serving(limits={"max_unauthenticated": 2}) as service:
        held = [await raw(service.url, connect=False) for _ in range(2)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await raw(service.url, connect=False)
        assert refused.value.status == 503
        assert refused.value.headers["Retry-After"] == "5"
        assert len(held) == len(service.engine.sockets)


async def test_clients_are_capped(serving, raw):
    import aiohttp

    async with serving(limits={"max_clients": 1}) as service:
        first = await raw(service.url)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await raw(service.url)
        assert refused.value.status == 503
        await first.send('427["list_containers"]')
        assert reply(await first.until("43"))["error"] is False


async def test_clients_that_connect_at_the_same_time_are_capped_too(serving, raw):
    async with serving(limits={"max_clients": 1}) as service:
        first, second = await raw(service.url, connect=False), await raw(service.url, connect=False)
        await first.send("40")
        await first.until('42["hello"')
        await second.send("40")
        assert '"rate_limited"' in await second.until("44")
        assert service.gateway.client_count == 1


async def test_a_client_that_answers_no_ping_is_let_go(service, raw):
    service.engine.ping_interval, service.engine.ping_timeout = 0.05, 0.2
    client = await raw()
    while (await client.ws.receive(timeout=5)).type.name == "TEXT":
        pass
    assert service.gateway.client_count == 0
    assert service.log.named("disconnect")[0]["reason"] == "ping timeout"


async def test_compression_is_refused(service):
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{service.url}/socket.io/?EIO=4&transport=websocket", compress=15) as websocket,
    ):
        assert websocket.compress == 0


async def test_an_upgrade_that_is_never_finished_is_given_up(service, monkeypatch):
    import aiohttp

    monkeypatch.setattr("flow_manager.gateway.engine_socket.UPGRADE_TIMEOUT", 0.1)
    async with aiohttp.ClientSession() as session:
        base = f"{service.url}/socket.io/?EIO=4&transport="
        async with session.get(base + "polling") as response:
            sid = orjson.loads((await response.text())[1:])["sid"]
        async with session.ws_connect(f"{base}websocket&sid={sid}") as websocket:
            assert (await websocket.receive(timeout=5)).type.name == "CLOSE"
        # The session itself goes on over polling.
        async with session.post(f"{base}polling&sid={sid}", data="40") as response:
            assert response.status == 200
        async with session.get(f"{base}polling&sid={sid}") as response:
            assert (await response.text()).startswith('40{"sid"')


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("EIO=3&transport=polling", 400),
        ("EIO=4&transport=smoke", 400),
        ("EIO=4&transport=polling&j=0", 400),
        ("EIO=4&transport=websocket", 400),
        ("EIO=4&transport=polling&sid=nobody", 400),
        ("", 400),
    ],
)
async def test_a_request_that_is_no_engine_io_is_refused(service, query, status):
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{service.url}/socket.io/?{query}") as response:
        assert response.status == status
        assert "Traceback" not in await response.text()
    assert service.engine.sockets == {}


async def test_both_spellings_of_the_path_answer(service):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for path in ("/socket.io", "/socket.io/"):
            async with session.get(f"{service.url}{path}?EIO=4&transport=polling") as response:
                assert response.status == 200


async def test_a_body_that_never_comes_ends_the_session(service, monkeypatch):
    import aiohttp

    monkeypatch.setattr("flow_manager.gateway.engine_socket.BODY_TIMEOUT", 0.1)
    async with aiohttp.ClientSession() as session:
        base = f"{service.url}/socket.io/?EIO=4&transport=polling"
        async with session.get(base) as response:
            sid = orjson.loads((await response.text())[1:])["sid"]

        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n40".encode()
        )
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert service.engine.sockets == {}


@pytest.mark.parametrize("body", ["\x1e" * 5000, "x" * (4 * 1024 * 1024 + 1)])
@pytest.mark.filterwarnings("ignore:Sending a large body")
async def test_a_post_that_is_too_much_ends_the_session(service, body):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        base = f"{service.url}/socket.io/?EIO=4&transport=polling"
        async with session.get(base) as response:
            sid = orjson.loads((await response.text())[1:])["sid"]
        try:
            async with session.post(f"{base}&sid={sid}", data=body) as response:
                assert response.status == 400
        except aiohttp.ClientConnectionError:
            pass  # the server need not read what it refuses
    assert service.engine.sockets == {}


@pytest.mark.parametrize("way", ["websocket", "polling"])
async def test_events_that_take_long_let_others_have_their_turn_after_each(service, raw, monkeypatch, way):
    """By their number alone, sixty-four lists of many flows were made in a row: a second in which nobody else was served."""
    import aiohttp

    order: list[str] = []

    def slow(_principal, _request):
        order.append("event")
        time.sleep(0.005)
        return []

    async def others():
        while order.count("event") < 40:
            order.append("other")
            await asyncio.sleep(0)

    monkeypatch.setattr(service.manager, "list_containers", slow)
    packets = [f'42{number}["list_containers"]' for number in range(40)]
    if way == "websocket":
        client = await raw()
        beside = asyncio.create_task(others())
        for packet in packets:
            await client.send(packet)
        await client.until("4339")
    else:
        async with aiohttp.ClientSession() as session:
            base = f"{service.url}/socket.io/?EIO=4&transport=polling"
            async with session.get(base) as response:
                sid = orjson.loads((await response.text())[1:])["sid"]
            beside = asyncio.create_task(others())
            async with session.post(f"{base}&sid={sid}", data="\x1e".join(["40", *packets])) as response:
                assert await response.text() == "OK"
    await asyncio.wait_for(beside, 10)
    assert "event event event" not in " ".join(order)
