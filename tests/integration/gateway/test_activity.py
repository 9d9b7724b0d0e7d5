"""Subscriptions: replay, then follow, with neither gap nor repeat."""

from __future__ import annotations

import asyncio

import pytest


def cursors(client):
    return [entry["cursor"] for entry in client.of("activity")]


async def test_without_a_cursor_only_what_comes_is_sent(service, connect):
    service.stream.add()
    async with connect(service.url) as client:
        reply = await client.call("subscribe_activity")
        assert reply["data"] == {"cursor": 1, "stream": "test-stream", "replayed": 0, "gap": False}
        service.stream.add()
        await client.wait_for("activity")
        assert cursors(client) == [2]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_entries_published_while_replaying_come_once_and_in_order(service, connect, transport):
    """More comes while each page is read: stored but not yet told, told and not yet live, and both at once."""
    for _ in range(1200):
        service.stream.add()
    reads = 0

    async def more() -> None:
        nonlocal reads
        reads += 1
        if reads <= 6:
            service.stream.add()
            held = service.stream.store()
            asyncio.get_running_loop().call_soon(service.stream.publish, held)
            await asyncio.sleep(0)

    service.stream.on_read = more
    async with connect(service.url, transport) as client:
        reply = await client.call("subscribe_activity", {"after": 10})
        service.stream.on_read = None
        service.stream.add()
        total = len(service.stream.entries)
        await client.wait_for("activity", total - 10)
        assert cursors(client) == list(range(11, total + 1))
        assert reply["data"]["gap"] is False
        assert reply["data"]["replayed"] >= 1190


@pytest.mark.parametrize(
    ("request_", "replayed", "gap"),
    [
        ({"after": 0}, 5, True),  # retention has cut 1 to 3
        ({"after": 2}, 5, True),
        ({"after": 3}, 5, False),
        ({"after": 8}, 0, False),
        ({"after": 9}, 5, True),  # beyond the head: another log
        ({"after": 8, "stream": "another"}, 5, True),
        ({"after": 6, "stream": "test-stream"}, 2, False),
    ],
)
async def test_a_gap_is_told(service, connect, request_, replayed, gap):
    for _ in range(8):
        service.stream.add()
    service.stream.low = 3
    async with connect(service.url) as client:
        data = (await client.call("subscribe_activity", request_))["data"]
        assert (data["replayed"], data["gap"], data["cursor"]) == (replayed, gap, 8)
        assert len(cursors(client)) == replayed


async def test_filters_hold_for_the_replay_and_for_what_follows(service, connect):
    async with connect(service.url) as client:
        flow = (await client.call("create_container", {"image": "local", "name": "mine"}))["data"]["id"]
        for _ in range(2):
            service.stream.add(container_id=flow, type="a")
            service.stream.add(container_id=flow, type="b")
            service.stream.add(container_id="another", type="a")
        request = {"after": 0, "container_id": "mine", "types": ["a"]}
        assert (await client.call("subscribe_activity", request))["data"]["replayed"] == 2
        service.stream.add(container_id="another", type="a")
        service.stream.add(container_id=flow, type="b")
        service.stream.add(container_id=flow, type="a")
        await client.wait_for("activity", 3)
        assert cursors(client) == [1, 4, 9]


async def test_a_filter_on_a_flow_that_is_not_there_is_refused(service, connect):
    async with connect(service.url) as client:
        for event in ("subscribe_activity", "list_activity"):
            assert (await client.call(event, {"container_id": "nothing"}))["code"] == "container_not_found"


async def test_a_new_subscription_replaces_the_old_one(service, connect):
    async with connect(service.url) as client:
        await client.call("subscribe_activity", {"types": ["a"]})
        await client.call("subscribe_activity", {"types": ["b"]})
        service.stream.add(type="a")
        service.stream.add(type="b")
        await client.wait_for("activity")
        await client.call("unsubscribe_activity")
        service.stream.add(type="b")
        await client.call("list_containers")
        assert cursors(client) == [2]


async def test_an_unsubscribe_ends_a_replay_under_way(service, connect):
    service.stream.add()
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        reading.set()
        await go_on.wait()

    service.stream.on_read = slow
    async with connect(service.url) as client:
        replaying = asyncio.create_task(client.call("subscribe_activity", {"after": 0}))
        await asyncio.wait_for(reading.wait(), 5)
        await client.call("unsubscribe_activity")
        go_on.set()
        assert (await replaying)["code"] == "conflict"
        service.stream.add()
        await client.call("list_containers")
        assert cursors(client) == []


async def test_the_log_is_read_back_in_pages(service, connect):
    for _ in range(5):
        service.stream.add()
    async with connect(service.url) as client:
        first = (await client.call("list_activity", {"limit": 2}))["data"]
        assert ([entry["cursor"] for entry in first["entries"]], first["next"]) == ([5, 4], 4)
        second = (await client.call("list_activity", {"limit": 3, "before": first["next"]}))["data"]
        assert ([entry["cursor"] for entry in second["entries"]], second["next"]) == ([3, 2, 1], None)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_batch_reaches_each_subscriber_whole(service, connect, transport):
    async with connect(service.url, transport) as client:
        await client.call("subscribe_activity")
        batch = [service.stream.store(number=number) for number in range(40)]
        service.stream.publish(*batch)
        entries = await client.wait_for("activity", 40)
        assert [entry["details"]["number"] for entry in entries] == list(range(40))


async def test_a_client_that_left_is_published_to_no_more(service, connect, eventually):
    async with connect(service.url) as client:
        await client.call("subscribe_activity")
    await eventually(lambda: service.gateway.client_count == 0)
    service.stream.add()
    assert len(service.gateway._publisher) == 0
