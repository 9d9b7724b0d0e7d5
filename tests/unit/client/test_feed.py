"""Following the activity log: neither gap nor repeat, whatever happens to the connection."""

from __future__ import annotations

import asyncio

from flow_manager.client import ActivityFeed, FlowManagerClient
from flow_manager.contract.activity import Activity, Subscription
from tests.unit.client import fake_service


async def take(feed: ActivityFeed, count: int) -> list[int]:
    async with asyncio.timeout(5):
        return [(await anext(feed)).cursor for _ in range(count)]


async def test_from_now_means_only_what_happens_after_the_subscription(service) -> None:
    service.log = [service_entry(service, 1)]
    async with FlowManagerClient(service.url) as client:
        feed = client.subscribe_activity()
        await feed.open()
        assert feed.cursor == 1
        await service.happen(2)
        assert await take(feed, 1) == [2]
    assert service.requests("subscribe_activity") == [{}]


async def test_with_a_cursor_the_past_comes_first(service) -> None:
    service.log = [service_entry(service, cursor) for cursor in (1, 2, 3)]
    async with FlowManagerClient(service.url) as client:
        feed = client.subscribe_activity(after=1, container_id="reports", types=["container_started"])
        assert await take(feed, 2) == [2, 3]
        await service.happen(4)
        assert await take(feed, 1) == [4]
        assert feed.gaps == 0
    assert service.requests("subscribe_activity") == [
        {"after": 1, "container_id": "reports", "types": ["container_started"]}
    ]


async def test_a_broken_connection_costs_no_entry(service) -> None:
    async with FlowManagerClient(service.url) as client:
        feed = client.subscribe_activity(after=0)
        await feed.open()
        await service.happen(1)
        assert await take(feed, 1) == [1]
        await service.stop()
        service.log += [service_entry(service, cursor) for cursor in (2, 3)]
        await service.start()
        assert await take(feed, 2) == [2, 3]
        await service.happen(4)
        assert await take(feed, 1) == [4]
    assert service.requests("subscribe_activity")[-1] == {"after": 1, "stream": "log-1"}


async def test_a_log_that_was_lost_is_followed_from_its_beginning_and_counted_as_a_gap(service) -> None:
    service.log = [service_entry(service, cursor) for cursor in (7, 8)]
    async with FlowManagerClient(service.url) as client:
        feed = client.subscribe_activity(after=6)
        assert await take(feed, 2) == [7, 8]
        await service.stop()
        service.stream = "log-2"
        service.log = [service_entry(service, cursor) for cursor in (1, 2)]
        await service.start()
        assert await take(feed, 2) == [1, 2]
        assert (feed.stream, feed.cursor, feed.gaps) == ("log-2", 2, 1)


async def test_a_newer_feed_ends_the_one_before(service) -> None:
    async with FlowManagerClient(service.url) as client:
        first = client.subscribe_activity()
        await first.open()
        second = client.subscribe_activity()
        await second.open()
        assert [item async for item in first] == []
        await service.happen(1)
        assert await take(second, 1) == [1]


async def test_what_comes_twice_is_given_once(service) -> None:
    async with FlowManagerClient(service.url) as client:
        feed = client.subscribe_activity(after=0)
        await feed.open()
        await service.happen(1)
        await service.emit("activity", service.log[0])
        await service.happen(2)
        assert await take(feed, 2) == [1, 2]


class Script:
    """A subscription whose answers and entries come when the test says."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.asked = asyncio.Event()

    async def __call__(self, request: dict) -> Subscription:
        self.requests.append(request)
        self.asked.set()
        return Subscription(cursor=0, stream="log-1", replayed=0, gap=False)


async def test_a_consumer_that_is_too_slow_asks_again_and_misses_nothing(fake) -> None:
    script = Script()
    feed = ActivityFeed(script, after=0, max_waiting=3)
    await feed.open()
    entries = [Activity.model_validate(fake.entry(cursor), strict=False) for cursor in range(1, 7)]
    for item in entries:
        feed.received(item)
    assert await take(feed, 3) == [1, 2, 3]
    script.asked.clear()
    following = asyncio.create_task(take(feed, 3))
    await script.asked.wait()
    assert script.requests[1] == {"after": 3, "stream": "log-1"}
    for item in entries[3:]:
        feed.received(item)
    assert await following == [4, 5, 6]


async def test_a_loss_between_the_answer_and_its_reading_is_noticed() -> None:
    tries = 0

    async def subscribe(_request: dict) -> Subscription:
        nonlocal tries
        tries += 1
        if tries == 1:
            feed.lost()
        return Subscription(cursor=5, stream="log-1", replayed=0, gap=False)

    feed = ActivityFeed(subscribe)
    async with asyncio.timeout(5):
        await feed.open()
    assert tries == 2


def service_entry(service, cursor: int) -> dict:
    return fake_service.entry(cursor, service.stream)
