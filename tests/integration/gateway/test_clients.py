"""python-socketio's own client, unchanged, over both transports."""

from __future__ import annotations

import asyncio

import pytest

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])


@TRANSPORTS
async def test_a_client_creates_starts_watches_and_deletes_a_flow(service, connect, transport):
    async with connect(service.url, transport) as client:
        assert client.of("hello")[0]["principal"] == "local"
        made = await client.call("create_container", {"image": "local", "name": "one"})
        assert made["error"] is False
        flow = made["data"]["id"]
        assert (await client.call("subscribe_activity"))["data"]["replayed"] == 0
        started = await client.call("start_container", {"container_id": flow})
        assert started["data"]["state"] == "running"
        assert (await client.wait_for("container_status"))[0]["state"] == "running"
        service.stream.add(container_id=flow)
        assert (await client.wait_for("activity"))[0]["cursor"] == 1
        assert (await client.call("get_status", {"container_id": "one"}))["data"]["state"] == "running"
        assert [info["id"] for info in (await client.call("list_containers"))["data"]] == [flow]
        assert (await client.call("delete_container", {"container_id": flow}))["data"]["deleted"] is True


@TRANSPORTS
async def test_a_failure_is_acknowledged_and_emitted_to_that_client_alone(service, connect, transport):
    async with connect(service.url, transport) as client, connect(service.url, transport) as other:
        reply = await client.call("get_status", {"container_id": "nothing"})
        assert (reply["error"], reply["code"], reply["error_type"]) == (True, "container_not_found", "memory_error")
        assert (await client.wait_for("error"))[0] == reply
        await other.call("list_containers")
        assert other.of("error") == []


@TRANSPORTS
async def test_an_event_without_acknowledgement_gets_its_error_emitted(service, connect, transport):
    async with connect(service.url, transport) as client:
        await client.sio.emit("get_status", {"container_id": "nothing"})
        assert (await client.wait_for("error"))[0]["code"] == "container_not_found"


@pytest.mark.parametrize(
    ("event", "payload", "code"),
    [
        ("no_such_event", {}, "unknown_event"),
        ("get_status", {}, "invalid_request"),
        ("get_status", {"container_id": 5}, "invalid_request"),
        ("get_status", {"container_id": "x", "nonsense": 1}, "invalid_request"),
        ("get_status", "text", "invalid_request"),
        ("get_status", [1], "invalid_request"),
        ("get_status", ("a", "b"), "invalid_request"),
        ("create_container", {"image": "local", "ports": {"80": 99999}}, "invalid_request"),
        ("get_status", b"bytes", "invalid_request"),
        ("get_status", {"container_id": b"a", "more": b"b"}, "invalid_request"),
    ],
)
@TRANSPORTS
async def test_bad_input_is_answered_with_its_code(service, connect, transport, event, payload, code):
    async with connect(service.url, transport) as client:
        reply = await client.call(event, payload)
        assert (reply["code"], reply["error_type"]) == (code, "validation_error")
        assert (await client.call("list_containers"))["error"] is False


@pytest.mark.filterwarnings("ignore:Sending a large body")  # by the client's own HTTP library
@TRANSPORTS
async def test_a_payload_over_the_limit_is_refused_and_the_connection_lives_on(service, connect, transport):
    async with connect(service.url, transport) as client:
        reply = await client.call("send_message", {"container_id": "x", "message": {"text": "x" * 2_000_000}})
        assert reply["code"] == "payload_too_large"
        assert reply["details"]["limit"] == 256 * 1024
        assert (await client.call("list_containers"))["error"] is False


@TRANSPORTS
async def test_a_payload_just_under_the_limit_arrives_whole(service, connect, transport):
    """engineio reads a POST's body in one `read`, which gives what has come so far: 200 KB are cut in the middle."""
    async with connect(service.url, transport) as client:
        await client.call("create_container", {"image": "local", "name": "big"})
        text = "x" * 250_000
        reply = await client.call("send_message", {"container_id": "big", "message": {"text": text}})
        assert reply["data"]["reply"] == {"text": text}


@TRANSPORTS
async def test_forty_events_at_once_are_all_answered(service, connect, transport):
    """engineio throws away a POST of more than 16 packets, and answers it with OK."""
    async with connect(service.url, transport) as client:
        replies = await asyncio.gather(*(client.call("list_containers") for _ in range(40)))
        assert all(reply["error"] is False for reply in replies)


@pytest.mark.parametrize(
    "name", ["connect", "disconnect", "connect_error", "disconnecting", "newListener", "removeListener"]
)
@TRANSPORTS
async def test_an_event_with_a_reserved_name_runs_no_handler(service, connect, transport, name):
    async with connect(service.url, transport) as client:
        before = service.log.named("connect")
        reply = await client.call(name, {"aiohttp.request": None, "token": "made up"})
        assert reply["code"] == "invalid_request"
        assert service.log.named("connect") == before
        assert service.log.named("disconnect") == []
        assert (await client.call("list_containers"))["error"] is False


async def test_a_fault_in_a_handler_is_answered_without_its_trace(service, connect):
    async with connect(service.url) as client:
        service.manager.broken = RuntimeError("a secret of the inside")
        reply = await client.call("get_status", {"container_id": "x"})
        assert (reply["code"], reply["error_type"]) == ("internal", "system_error")
        assert "secret" not in str(reply)
        [(error_id, error)] = service.log.errors
        assert (reply["details"]["error_id"], str(error)) == (error_id, "a secret of the inside")


async def test_a_repeated_request_id_is_answered_from_memory(service, connect):
    async with connect(service.url) as client:
        request = {"image": "local", "name": "once", "request_id": "r-1"}
        first = await client.call("create_container", request)
        assert await client.call("create_container", request) == first
        assert [verb for verb, _ in service.manager.calls] == ["create"]


async def test_a_client_that_leaves_cancels_nothing_that_it_started(service, connect, eventually):
    async with connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "goes-on"})
        service.manager.hold = asyncio.Event()
        await client.sio.emit("start_container", {"container_id": "goes-on"})
        await client.call("list_containers")
    await eventually(lambda: service.gateway.client_count == 0)
    service.manager.hold.set()
    await eventually(lambda: service.manager.finished == ["start"])


async def test_slow_operations_of_one_client_do_not_hold_up_reads(service, connect):
    async with connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "slow"})
        service.manager.hold = asyncio.Event()
        pending = asyncio.create_task(client.call("start_container", {"container_id": "slow"}))
        assert (await client.call("get_status", {"container_id": "slow"}))["data"]["state"] == "created"
        assert not pending.done()
        service.manager.hold.set()
        assert (await pending)["data"]["state"] == "running"


async def test_further_events_of_one_client_wait_their_turn_and_too_many_are_refused(serving, connect, monkeypatch):
    monkeypatch.setattr("flow_manager.gateway.lanes.MAX_WAITING", 3)
    async with serving(limits={"events_in_flight": 2}) as service, connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "busy"})
        service.manager.hold = asyncio.Event()
        calls = [asyncio.create_task(client.call("stop_container", {"container_id": "busy"})) for _ in range(6)]
        [refused] = await client.wait_for("error")
        assert (refused["code"], refused["details"]["retry_after"]) == ("rate_limited", 1)
        assert len(service.manager.calls) == 1 + 2
        service.manager.hold.set()
        replies = await asyncio.gather(*calls)
        assert sorted(reply.get("code", "ok") for reply in replies) == ["ok"] * 5 + ["rate_limited"]


async def test_neither_looks_nor_what_ends_an_operation_wait_behind_long_ones(serving, connect, eventually):
    async with serving(limits={"events_in_flight": 1}) as service, connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "slow"})
        service.manager.hold = asyncio.Event()
        slow = {"container_id": "slow"}
        pending = [asyncio.create_task(client.call("start_container", slow)) for _ in range(3)]
        assert (await client.call("get_logs", slow))["error"] is False
        killing = asyncio.create_task(client.call("kill_container", slow))
        forced = asyncio.create_task(client.call("delete_container", slow))
        await eventually(lambda: [verb for verb, _ in service.manager.calls] == ["create", "start", "kill"])
        service.manager.hold.set()
        replies = await asyncio.gather(*pending, killing, forced)
        assert [reply["error"] for reply in replies] == [False] * 5


async def test_an_event_whose_turn_does_not_come_is_answered_in_time_all_the_same(serving, connect):
    async with serving(limits={"events_in_flight": 1}) as service, connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "slow"})
        service.manager.hold = asyncio.Event()
        service.gateway._dispatcher._deadline = 0.2
        replies = await asyncio.gather(*(client.call("start_container", {"container_id": "slow"}) for _ in range(2)))
        assert [reply["code"] for reply in replies] == ["timeout", "timeout"]


async def test_a_client_is_upgraded_from_polling_and_loses_nothing(service, connect, spy):
    await spy.sio.connect(service.url)  # polling first, then the upgrade, as every client does by default
    try:
        await spy.wait_for("hello")
        assert spy.sio.transport() == "websocket"
        await spy.call("subscribe_activity")
        for _ in range(5):
            service.stream.add()
        assert [entry["cursor"] for entry in await spy.wait_for("activity", 5)] == [1, 2, 3, 4, 5]
    finally:
        await spy.sio.disconnect()
        await spy.sio.eio.disconnect()
