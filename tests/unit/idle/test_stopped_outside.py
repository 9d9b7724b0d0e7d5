"""A person's `docker stop` that meets an operation of the manager's own: it holds, whichever was quicker."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import Conflict
from flow_manager.idle.watcher import Watcher
from flow_manager.runtimes.base import RuntimeEvent
from flow_manager.testing import eventually
from tests.unit.idle.house import IdleHouse


async def goes_to_sleep(house: IdleHouse, watcher: Watcher) -> None:
    """Its idle stop has begun, and the engine takes 5 s for it."""
    house.faults.delay("stop", 5.0)
    await house.clock.run(61)
    await house.comes(watcher, "stopping")
    await house.settled()


def said(house: IdleHouse, watcher: Watcher, *, ago: float = 0.0) -> None:
    """The event that tells of a person's stop comes only now."""
    at = house.core.clock.now() - timedelta(seconds=ago)
    house.runtime.engine.publish("i", RuntimeEvent("died", watcher.id, exit_code=143, cause="stop", at=at))


async def stays_stopped(house: IdleHouse, watcher: Watcher) -> None:
    await eventually(lambda: watcher.entry.record.desired == "stopped")
    assert watcher.state == "napping"
    with pytest.raises(Conflict):
        await watcher.wake(reason="a request")
    assert house.starts(watcher) == 1
    assert watcher.explain().summary == "stopped by somebody: start or wake it; traffic doesn't"


async def test_one_that_a_person_stops_while_its_idle_stop_is_under_way_stays_stopped(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await goes_to_sleep(idle_house, web)
    idle_house.runtime.outside_stop(web.id)
    await idle_house.settled()
    await idle_house.clock.run(6)
    await idle_house.comes(web, "napping")
    await stays_stopped(idle_house, web)


async def test_one_whose_person_s_stop_is_told_after_its_idle_stop_has_ended_stays_stopped(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    await goes_to_sleep(idle_house, web)
    await idle_house.clock.run(6)
    await idle_house.comes(web, "napping")
    said(idle_house, web)
    await stays_stopped(idle_house, web)


async def test_one_whose_idle_stop_begins_before_a_person_s_stop_was_looked_at_stays_stopped(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.hang("inspect")
    idle_house.runtime.outside_stop(web.id)
    await idle_house.settled()
    assert web.state == "ready"
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")
    idle_house.faults.release("inspect")
    await stays_stopped(idle_house, web)


async def test_a_request_that_waits_for_that_stop_hears_that_somebody_wants_it_stopped(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await goes_to_sleep(idle_house, web)
    waiting = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.settled()
    idle_house.runtime.outside_stop(web.id)
    await idle_house.settled()
    await idle_house.clock.run(6)
    with pytest.raises(Conflict) as refused:
        await waiting
    assert refused.value.details["desired"] == "stopped"
    await stays_stopped(idle_house, web)


async def test_a_person_who_waits_for_that_stop_gets_the_flow_back(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await goes_to_sleep(idle_house, web)
    waiting = asyncio.create_task(web.wake(reason="somebody asked", by_request=False))
    await idle_house.settled()
    idle_house.runtime.outside_stop(web.id)
    await idle_house.settled()
    await idle_house.clock.run(6)
    await waiting
    assert (web.state, web.desired) == ("ready", "running")


async def test_news_of_a_stop_that_comes_after_the_next_start_stops_nothing(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.clock.run(62)
    await idle_house.comes(web, "napping")
    await idle_house.clock.run(10)
    await web.wake(reason="a request")
    said(idle_house, web, ago=5)
    await idle_house.settled()
    await idle_house.clock.run(62)
    await idle_house.comes(web, "napping")
    await idle_house.settled()
    assert web.entry.record.desired == "running"


async def test_a_restart_is_not_undone_by_a_stop_that_came_during_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.delay("stop", 5.0)
    restarting = asyncio.create_task(
        idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id=web.id))
    )
    await idle_house.comes(web, "stopping")
    await idle_house.settled()
    idle_house.runtime.outside_stop(web.id)
    await idle_house.settled()
    await idle_house.clock.run(6)
    await restarting
    await idle_house.comes(web, "ready")
    assert web.entry.record.desired == "running"
