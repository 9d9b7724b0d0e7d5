"""Reading and following what flows write: one stream for all, across stops and starts, and nothing left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow_manager.containers.log_batch import LogBatch, newest
from flow_manager.containers.logs import LogFeeds, get_logs
from flow_manager.contract import requests
from flow_manager.contract.inside import FollowLogs, GetLogs
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.errors import ContainerNotFound, RuntimeUnavailable, Unsupported
from flow_manager.runtimes.inside import LogLine
from flow_manager.testing import eventually

STRANGER = Principal("stranger", "elsewhere", LOCAL.scopes)


class Reader:
    """A follower that reads at once, unless it is `full`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.lost = 0
        self.ended: str | None = None
        self.full = False

    @property
    def texts(self) -> list[str]:
        return [line["text"] for line in self.lines]

    def take(self, batch: LogBatch) -> None:
        self.lines += [json.loads(item) for item in batch.items]

    def lose(self, count: int) -> None:
        self.lost += count

    def end(self, code: str) -> None:
        self.ended = code


@asynccontextmanager
async def feeds_of(house) -> AsyncIterator[LogFeeds]:
    feeds = LogFeeds(house.core)
    try:
        yield feeds
    finally:
        await feeds.close()


async def made(house, *command: str, name: str = "f", start: bool = True, **fields: Any) -> str:
    request = requests.CreateContainer(image="memory", name=name, command=list(command), start=start, **fields)
    return (await house.manager.create_container(LOCAL, request)).id


async def follow(feeds: LogFeeds, ref: str = "f", **fields: Any) -> Reader:
    reader = Reader()
    await feeds.follow(LOCAL, FollowLogs(container_id=ref, **fields), lambda _id: reader)
    return reader


async def until(condition) -> None:
    async def holds() -> bool:
        return bool(condition())

    await eventually(holds)


async def texts(house, **fields: Any) -> list[str]:
    return [line.text for line in (await get_logs(house.core, LOCAL, GetLogs(container_id="f", **fields))).lines]


def streams(house) -> int:
    return sum(task.get_name().startswith("logs-") for task in asyncio.all_tasks())


async def test_the_logs_of_a_stopped_flow_are_read_without_waking_it(house) -> None:
    flow = await made(house, "print", "one", "two")
    await house.manager.stop_container(LOCAL, requests.StopContainer(container_id="f"))
    assert await texts(house) == ["one", "two", "ready"]
    assert await texts(house, tail=1) == ["ready"]
    assert await texts(house, tail=0) == []
    assert not house.core.table.get(flow).running


async def test_known_secrets_are_masked(house) -> None:
    await made(house, "print", "token is s3cr3t-value", environment={"API_TOKEN": "s3cr3t-value"})
    async with feeds_of(house) as feeds:
        reader = await follow(feeds)
        assert reader.texts == ["token is ***", "ready"]
        house.runtime.engine.flows[house.core.table.named("default", "f").id].write("again s3cr3t-value")
        await until(lambda: reader.texts[-1] == "again ***")
    assert await texts(house) == ["token is ***", "ready", "again ***"]


async def test_what_can_not_be_read_says_why(house) -> None:
    await made(house, "sleep")
    async with feeds_of(house) as feeds:
        for who, ref in ((LOCAL, "nothing"), (STRANGER, "f")):
            with pytest.raises(ContainerNotFound):
                await get_logs(house.core, who, GetLogs(container_id=ref))
            with pytest.raises(ContainerNotFound):
                await feeds.follow(who, FollowLogs(container_id=ref), lambda _id: Reader())
        house.faults.fail("logs", RuntimeUnavailable("it is away", kind="memory"))
        with pytest.raises(RuntimeUnavailable):
            await follow(feeds)
        assert len(feeds) == 0
        house.runtime.capabilities = type(house.runtime.capabilities)(logs=False)
        with pytest.raises(Unsupported) as caught:
            await follow(feeds)
        assert caught.value.details["capability"] == "logs"
        assert len(feeds) == 0


async def test_following_goes_on_across_stops_and_starts_and_ends_with_the_flow(house) -> None:
    await made(house, "print", "hello")
    async with feeds_of(house) as feeds:
        reader = await follow(feeds, tail=1)
        assert reader.texts == ["ready"]
        for round in range(2, 5):
            await house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="f"))
            await until(lambda round=round: len(reader.lines) == 2 * round - 1)
        await house.manager.kill_container(LOCAL, requests.KillContainer(container_id="f"))
        await house.manager.start_container(LOCAL, requests.StartContainer(container_id="f"))
        await until(lambda: len(reader.lines) == 9)
        assert reader.texts == ["ready", *["hello", "ready"] * 4]
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="f", force=True))
        await until(lambda: reader.ended == "container_not_found")
        assert len(feeds) == 0


async def test_a_late_follower_has_neither_gap_nor_repeat(house) -> None:
    await made(house, "count")
    async with feeds_of(house) as feeds:
        first = await follow(feeds, tail=1000)
        await until(lambda: len(first.lines) > 5)
        late = [await follow(feeds, tail=tail) for tail in (0, 1, 3, 1000)]
        assert streams(house) == 1
        await until(lambda: all(len(reader.lines) > 15 for reader in late))
        await house.manager.kill_container(LOCAL, requests.KillContainer(container_id="f"))
        await until(lambda: all(reader.lines[-1] == first.lines[-1] for reader in late))
    written = await texts(house, tail=1000)
    for reader in (first, *late):
        assert reader.texts == written[-len(reader.texts) :]


async def test_a_flow_that_sleeps_by_pause_costs_no_stream(house) -> None:
    flow = await made(house, "count")
    async with feeds_of(house) as feeds:
        reader = await follow(feeds)
        await until(lambda: len(reader.lines) > 3)
        await house.manager.pause_container(LOCAL, requests.ChangeContainer(container_id="f"))
        feed = feeds._feeds[flow]
        await until(lambda: feed._stream is None)
        await house.manager.unpause_container(LOCAL, requests.ChangeContainer(container_id="f"))
        seen = len(reader.lines)
        await until(lambda: len(reader.lines) > seen + 3)
        numbers = [int(text[5:]) for text in reader.texts if text.startswith("line ")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_an_engine_that_goes_away_loses_no_line(house) -> None:
    flow = await made(house, "count")
    async with feeds_of(house) as feeds:
        reader = await follow(feeds, tail=1000)
        await until(lambda: len(reader.lines) > 3)
        house.faults.go_away()
        await until(lambda: feeds._feeds[flow]._stream is None)
        house.faults.come_back()
        seen = len(reader.lines)
        await until(lambda: len(reader.lines) > seen + 5)
        assert reader.ended is None
        numbers = [int(text[5:]) for text in reader.texts if text.startswith("line ")]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_two_hundred_followers_come_and_go_twenty_times_and_leave_nothing(house) -> None:
    flow = await made(house, "count")
    async with feeds_of(house) as feeds:
        for _ in range(20):
            readers = await asyncio.gather(*(follow(feeds, tail=5) for _ in range(200)))
            assert streams(house) == 1
            began = asyncio.get_running_loop().time()
            house.manager.get_status(LOCAL, requests.OneContainer(container_id="f"))
            await house.runtime.inspect(flow)
            assert asyncio.get_running_loop().time() - began < 1.0
            for reader in readers:
                feeds.leave(flow, reader)
            assert len(feeds) == 0
        await until(lambda: streams(house) == 0)
        assert not feeds._ending


async def test_a_slow_follower_holds_nobody_up_and_a_lonely_one_loses_nothing(house) -> None:
    await made(house, "count")
    async with feeds_of(house) as feeds:
        slow, quick = await follow(feeds), await follow(feeds)
        slow.full = True
        seen = len(quick.lines)
        await until(lambda: len(quick.lines) > seen + 10)
        quick.full = True
        held = len(quick.lines)
        await asyncio.sleep(0.2)
        assert len(quick.lines) <= held + 2
        quick.full = slow.full = False
        await until(lambda: len(quick.lines) > held + 10)
        numbers = [int(text[5:]) for text in quick.texts if text.startswith("line ")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_followers_are_told_of_the_services_end(house) -> None:
    await made(house, "sleep")
    async with feeds_of(house) as feeds:
        reader = await follow(feeds)
    assert reader.ended == "shutting_down"


def test_a_reply_is_bounded_and_keeps_the_newest() -> None:
    lines = [LogLine("stdout", "\x1b" * 10_000 + str(number)) for number in range(100)]
    kept = newest(lines, str)
    assert kept == lines[-len(kept) :]
    assert 0 < len(kept) < 20
    assert newest([LogLine("stdout", "x" * 5_000_000)], str)
