"""Idle deadlines across the end of the manager: one that is asked to end stores what it knows, one that is killed can't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flow_manager.contract.principal import LOCAL
from flow_manager.errors import DiskFull
from flow_manager.idle.watcher import Watcher
from flow_manager.testing import eventually
from tests.unit.idle.house import IdleBuilder, IdleHouse


@asynccontextmanager
async def killed(builder: IdleBuilder) -> AsyncIterator[IdleHouse]:
    """A manager that stores nothing at its end, as one that gets SIGKILL."""
    async with builder.open() as house:
        yield house
        await stored(house)

        async def nothing(*, everything: bool = False) -> None: ...

        house.registry._keeper.flush = nothing  # type: ignore[method-assign]


async def stored(house: IdleHouse) -> None:
    """What the store was asked to write by now is written."""
    writing = "store-last-used"
    await eventually(lambda: not [task for task in house.registry._keeper._tasks if task.get_name() == writing])


async def found(house: IdleHouse) -> Watcher:
    watcher = house.registry.resolve(LOCAL, "web")
    await house.comes(watcher, "ready")
    return watcher


async def sleeps_in(house: IdleHouse) -> float:
    left = (await found(house)).explain().sleeps_in
    assert left is not None
    return left


async def test_one_that_was_idle_for_long_when_the_manager_was_killed_sleeps_soon_after(
    idle_builder: IdleBuilder,
) -> None:
    async with killed(idle_builder) as house:
        web = await house.create(start=True)
        await house.clock.run(30)
        web.use("http", "client").release()
        await house.clock.run(55)
    idle_builder.clock.advance(2)
    async with idle_builder.open() as house:
        web = await found(house)
        await house.clock.run(8)
        assert web.state == "ready", "clients that lost their connection get some seconds to come back"
        await house.clock.run(3)
        await house.comes(web, "napping")


@pytest.mark.parametrize("ago", [3, 20, 40])
async def test_a_short_use_just_before_the_manager_was_killed_counts(idle_builder: IdleBuilder, ago: int) -> None:
    async with killed(idle_builder) as house:
        web = await house.create(start=True)
        await house.clock.run(50)
        web.use("http", "client").release()
        await house.clock.run(ago)
    async with idle_builder.open() as house:
        assert await sleeps_in(house) == pytest.approx(60 - ago)


async def test_one_in_use_when_the_manager_was_killed_is_wrong_by_seconds_alone(idle_builder: IdleBuilder) -> None:
    async with killed(idle_builder) as house:
        web = await house.create(start=True)
        socket = web.use("websocket", "client")
        for _ in range(200):
            await house.clock.run(9)
            socket.touch()
            await stored(house)
    async with idle_builder.open() as house:
        assert 60 - 20 <= await sleeps_in(house) <= 60


async def test_a_download_of_half_an_hour_is_wrong_by_seconds_alone(idle_builder: IdleBuilder) -> None:
    async with killed(idle_builder) as house:
        web = await house.create(start=True)
        web.use("http", "client")
        for _ in range(180):
            await house.clock.run(10)
            await stored(house)
    async with idle_builder.open() as house:
        assert 60 - 11 <= await sleeps_in(house) <= 60


@pytest.mark.parametrize("kill", [True, False])
async def test_one_that_said_it_is_busy_is_so_still_after_a_restart(idle_builder: IdleBuilder, kill: bool) -> None:
    async with killed(idle_builder) if kill else idle_builder.open() as house:
        web = await house.create(start=True)
        house.core.observer.channel_busy(web.entry, 600, "a long sum")
        await house.clock.run(5)
    idle_builder.clock.advance(15)
    async with idle_builder.open() as house:
        web = await found(house)
        assert [lease.kind for lease in web.explain().leases] == ["busy"]
        await house.clock.run(570)
        assert web.state == "ready"
        await house.clock.run(80)
        await house.comes(web, "napping")


async def test_one_that_was_done_early_is_not_called_busy_after_a_restart(idle_builder: IdleBuilder) -> None:
    async with killed(idle_builder) as house:
        web = await house.create(start=True)
        house.core.observer.channel_busy(web.entry, 600, "a long sum")
        await house.clock.run(20)
        house.core.observer.channel_idle(web.entry)
        await house.clock.run(12)
    async with idle_builder.open() as house:
        assert await sleeps_in(house) == pytest.approx(60 - 12)


async def test_a_wall_clock_that_was_set_back_keeps_nothing_awake_for_long(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create(start=True)
        await house.core.used({web.id: house.core.clock.now().replace(year=house.core.clock.now().year + 1)})
        house.registry._keeper._used.clear()
        house.registry._keeper.watchers.clear()
    async with idle_builder.open() as house:
        left = await sleeps_in(house)
        assert left == pytest.approx(house.core.settings.channel.max_busy + 60)


async def test_the_end_of_the_manager_stores_a_use_that_goes_on(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create(start=True)
        web.use("http", "client")
        await house.clock.run(300)
    idle_builder.clock.advance(10)
    async with idle_builder.open() as house:
        assert await sleeps_in(house) == pytest.approx(50)


async def test_what_could_not_be_stored_is_stored_later(idle_house: IdleHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    web = await idle_house.create(start=True)
    used = idle_house.core.store.used

    async def full(times: object) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(idle_house.core.store, "used", full)
    await idle_house.clock.run(5)
    await stored(idle_house)
    assert web.entry.record.last_used_at is None
    monkeypatch.setattr(idle_house.core.store, "used", used)
    await idle_house.clock.run(12)
    await eventually(lambda: web.entry.record.last_used_at is not None)


async def test_at_rest_nothing_is_stored_again(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={"idle_timeout": 0})
    await idle_house.clock.run(15)
    await stored(idle_house)
    assert web.entry.record.last_used_at is not None
    assert idle_house.timer.armed == 0
