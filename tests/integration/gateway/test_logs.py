"""Following logs and figures through the gateway: order, caps, slow clients, and that nothing is left."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from flow_manager.contract.models import ResourceUsage
from flow_manager.gateway import logs as gateway_logs
from flow_manager.util.tokens import hash_token

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


async def a_flow(client, name: str = "reports") -> str:
    reply = await client.call("create_container", {"image": "local", "name": name, "start": True})
    return reply["data"]["id"]


def texts(client) -> list[str]:
    return [line["text"] for event in client.of("log_lines") for line in event["lines"]]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_last_lines_come_first_and_after_the_reply(service, connect, eventually, transport):
    async with connect(service.url, transport) as client:
        flow = await a_flow(client)
        service.reader.begin_with = ("one", "two")
        reply = await client.call("follow_logs", {"container_id": "reports"})
        assert set(reply["data"]) == {"subscription_id"}
        service.reader.write("three")
        await eventually(lambda: texts(client) == ["one", "two", "three"])
        event = client.of("log_lines")[0]
        assert (event["subscription_id"], event["container_id"]) == (reply["data"]["subscription_id"], flow)
        assert "lost" not in event
        assert event["lines"][0] == {"stream": "stdout", "text": "one", "timestamp": None}
        assert await client.call("unfollow_logs", reply["data"]) == {"error": False, "data": {}}
        assert service.reader.followers == []
        # Twice is fine.
        assert (await client.call("unfollow_logs", reply["data"]))["error"] is False


async def test_lines_that_come_together_go_together(service, connect, eventually):
    async with connect(service.url) as client:
        await a_flow(client)
        service.reader.begin_with = ()
        await client.call("follow_logs", {"container_id": "reports"})
        for number in range(100):
            service.reader.write(f"line {number}")
        await eventually(lambda: len(texts(client)) == 100)
        assert texts(client) == [f"line {number}" for number in range(100)]
        assert len(client.of("log_lines")) <= 3


@pytest.mark.parametrize("event", ["get_logs", "follow_logs", "follow_usage"])
async def test_another_tenants_flow_is_not_there_in_the_same_words(serving, connect, event):
    tokens = [{"name": name, "tenant": name, "hash": hash_token(f"t-{name}")} for name in ("blue", "red")]
    async with serving(auth={"tokens": tokens}) as service:
        async with (
            connect(service.url, auth={"token": "t-blue"}) as blue,
            connect(service.url, auth={"token": "t-red"}) as red,
        ):
            await a_flow(blue)
            foreign = await red.call(event, {"container_id": "reports"})
            none = await red.call(event, {"container_id": "nothing"})
        assert foreign["code"] == none["code"] == "container_not_found"
        assert foreign["message"].replace("reports", "nothing") == none["message"]


@pytest.mark.parametrize(
    "request_",
    [
        {"since": "yesterday"},
        {"since": True},
        {"since": 1e30},
        {"since": [1]},
        {"tail": -1},
        {"tail": 10_001},
        {"tail": "5"},
        {"head": 5},
    ],
)
async def test_a_wrong_request_is_refused_with_its_field(service, connect, request_):
    async with connect(service.url) as client:
        await a_flow(client)
        for event in ("get_logs", "follow_logs"):
            reply = await client.call(event, {"container_id": "reports", **request_})
            assert reply["code"] == "invalid_request"
            assert reply["details"]["fields"][0]["path"] == next(iter(request_))


@pytest.mark.parametrize("since", ["2026-01-19T10:30:00Z", "2026-01-19", 1768818600, 1768818600.5, "1768818600.25"])
async def test_a_time_may_be_written_in_many_ways(service, connect, since):
    async with connect(service.url) as client:
        await a_flow(client)
        reply = await client.call("get_logs", {"container_id": "reports", "since": since})
        assert [line["text"] for line in reply["data"]["lines"]] == ["hello"]


async def test_a_connection_and_a_principal_follow_so_many_and_no_more(serving, connect):
    async with (
        serving(limits={"log_followers": 3, "log_followers_of_one": 5}) as service,
        connect(service.url) as one,
        connect(service.url) as two,
    ):
        await a_flow(one)
        replies = [await one.call("follow_logs", {"container_id": "reports"}) for _ in range(4)]
        assert [reply.get("code") for reply in replies] == [None, None, None, "too_many_streams"]
        others = [await two.call("follow_logs", {"container_id": "reports"}) for _ in range(3)]
        assert [reply.get("code") for reply in others] == [None, None, "too_many_streams"]
        await one.call("unfollow_logs", replies[0]["data"])
        assert (await two.call("follow_logs", {"container_id": "reports"}))["error"] is False


async def test_a_connection_that_ends_leaves_nothing(service, connect, eventually):
    service.reader.hold = asyncio.Event()
    async with connect(service.url) as client:
        await a_flow(client)
        waiting = asyncio.create_task(client.call("follow_logs", {"container_id": "reports"}))
        await eventually(lambda: len(service.gateway._logs) == 1)
        await client.call("follow_usage", {"container_id": "reports"})
    # Its client has gone, and would wait ten seconds for the answer.
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    service.reader.hold.set()
    await eventually(lambda: len(service.gateway._logs) == 0 and service.reader.followers == [])
    assert service.reader.usage_followers == []
    assert not service.gateway._logs._by_principal


async def test_a_client_that_does_not_read_loses_lines_and_not_its_connection(service, connect, raw, eventually):
    async with connect(service.url) as client:
        await a_flow(client)
        service.reader.begin_with = ()
        slow = await raw()
        await slow.send('421["follow_logs",{"container_id":"reports"}]')
        await slow.until("431")
        slow.ws._conn.transport.pause_reading()
        await client.call("follow_logs", {"container_id": "reports"})
        line = "x" * 10_000
        written = 0
        for _ in range(100):
            service.reader.write(*[line] * 20)
            written += 20
            await eventually(lambda written=written: len(texts(client)) == written)
        (held,) = [follower for _, follower in service.reader.followers if follower.client.pending_bytes > 10_000]
        assert held._size <= gateway_logs.QUEUE_BYTES
        assert held.full
        slow.ws._conn.transport.resume_reading()
        got = lost = 0
        while got + lost < written:
            event = await slow.until('42["log_lines"')
            import json

            data = json.loads(event[2:])[1]
            got += len(data["lines"])
            lost += data.get("lost", 0)
        assert got + lost == written
        assert lost > 0
        assert service.gateway.client_count == 2


async def test_the_end_of_what_is_followed_is_told(service, connect, eventually):
    async with connect(service.url) as client:
        await a_flow(client)
        await client.call("follow_logs", {"container_id": "reports"})
        await client.call("follow_usage", {"container_id": "reports"})
        for _, follower in [*service.reader.followers, *service.reader.usage_followers]:
            follower.end("container_not_found")
        await eventually(lambda: client.of("log_lines")[-1:] and "ended" in client.of("log_lines")[-1])
        assert client.of("log_lines")[-1]["ended"] == "container_not_found"
        assert client.of("log_lines")[-1]["lines"] == []
        assert client.of("resource_usage")[-1]["ended"] == "container_not_found"
        assert service.reader.followers == service.reader.usage_followers == []
        assert len(service.gateway._logs) == len(service.gateway._usage) == 0


async def test_figures_are_told_as_they_come(service, connect, eventually):
    async with connect(service.url) as client:
        flow = await a_flow(client)
        reply = await client.call("follow_usage", {"container_id": "reports"})
        for _, follower in service.reader.usage_followers:
            follower.sampled(ResourceUsage(cpu_percent=1.5, memory_bytes=10, pids=2), WHEN)
        await client.wait_for("resource_usage", 2)
        told = client.of("resource_usage")[1]
        assert told["subscription_id"] == reply["data"]["subscription_id"]
        assert told["container_id"] == flow
        assert told["resource_usage"] == {
            "cpu_percent": 1.5,
            "memory_bytes": 10,
            "memory_limit_bytes": None,
            "pids": 2,
        }


async def test_a_status_waits_for_figures_only_where_they_are_due(service, connect):
    async with connect(service.url) as client:
        await a_flow(client)
        at_once = await client.call("get_status", {"container_id": "reports"})
        service.reader.due = True
        measured = await client.call("get_status", {"container_id": "reports"})
    assert at_once["data"]["resource_usage"]["memory_bytes"] is None
    assert measured["data"]["resource_usage"]["memory_bytes"] == 1000
