from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.contract.wake import WakeEvent
from flow_manager.errors import ContainerNotFound, DependencyFailed, StartFailed
from flow_manager.testing import eventually
from tests.unit.idle.house import IdleBuilder, IdleHouse


async def test_a_flow_of_another_tenant_is_not_there(idle_house: IdleHouse) -> None:
    await idle_house.create()
    stranger = Principal("eve", tenant="other")
    with pytest.raises(ContainerNotFound):
        idle_house.registry.explain_container(stranger, requests.OneContainer(container_id="web"))
    with pytest.raises(ContainerNotFound):
        await idle_house.registry.wake_container(stranger, requests.WakeContainer(container_id="web"))


async def test_the_generation_changes_when_flows_come_and_go(idle_house: IdleHouse) -> None:
    seen = {idle_house.registry.generation}
    await idle_house.create()
    seen.add(idle_house.registry.generation)
    await idle_house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web"))
    seen.add(idle_house.registry.generation)
    assert len(seen) == 3
    assert list(idle_house.registry.watchers()) == []


async def test_wake_container_without_waiting_answers_at_once(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    status = await idle_house.registry.wake_container(LOCAL, requests.WakeContainer(container_id="web", wait=False))
    assert status.flow_state == "starting"
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")


async def test_subscribers_get_the_history_and_then_each_step(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    web.begin_wake(reason="a request")
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    heard: list[tuple[str, WakeEvent]] = []

    def listener(flow_id: str, event: WakeEvent) -> None:
        heard.append((flow_id, event))

    one = requests.OneContainer(container_id="web")
    history = idle_house.registry.subscribe_wake_events(LOCAL, one, listener).history
    assert [event.type for event in history] == ["starting", "container_woke", "waiting_ready"]
    idle_house.registry.subscribe_wake_events(LOCAL, one, listener)
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")
    assert [(flow_id, event.type) for flow_id, event in heard] == [(web.id, "ready")]
    assert heard[0][1].id > history[-1].id
    idle_house.registry.unsubscribe_wake_events(LOCAL, one, listener)
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    await web.wake(reason="a request")
    assert len(heard) == 1


async def test_a_running_flow_is_found_again_and_its_deadline_goes_on(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create(start=True, idle={"idle_timeout": 100})
        lease = web.use("http", "client")
        await house.clock.run(5)
        lease.release()
        await house.clock.run(10)
        starts = house.starts(web)
    idle_builder.clock.advance(20)
    async with idle_builder.open() as house:
        found = house.registry.resolve(LOCAL, "web")
        await house.comes(found, "ready")
        assert found.explain().sleeps_in == pytest.approx(70)
        assert starts == 1
        assert house.starts(found) == 0
        await house.clock.run(69)
        assert found.state == "ready"
        await house.clock.run(2)
        await house.comes(found, "napping")


async def test_a_flow_whose_deadline_passed_meanwhile_is_not_stopped_at_once(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        await house.create(start=True, idle={"idle_timeout": 100})
    idle_builder.clock.advance(5000)
    async with idle_builder.open() as house:
        web = house.registry.resolve(LOCAL, "web")
        await house.comes(web, "ready")
        assert web.explain().sleeps_in == pytest.approx(10)


async def test_an_adopted_flow_gets_its_full_timeout(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create(start=True, idle={"idle_timeout": 100})
        await house.core.record(web.entry, adopted=True)
    idle_builder.clock.advance(90)
    async with idle_builder.open() as house:
        web = house.registry.resolve(LOCAL, "web")
        await house.comes(web, "ready")
        assert web.explain().sleeps_in == pytest.approx(100)


async def test_a_sleeping_flow_still_sleeps_after_a_restart_and_wakes(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create(start=True)
        await house.clock.run(61)
        await house.comes(web, "napping")
    async with idle_builder.open() as house:
        web = house.registry.resolve(LOCAL, "web")
        assert (web.state, web.desired) == ("napping", "running")
        await web.wake(reason="a request")
        assert web.ready_now()


async def test_when_flows_were_last_used_is_stored_soon_and_all_at_once(idle_house: IdleHouse) -> None:
    flows = [await idle_house.create(f"flow-{n}", start=True, idle={"idle_timeout": 500}) for n in range(5)]
    for watcher in flows:
        watcher.use("http", "client").release()
    assert all(record.last_used_at is None for record in await idle_house.store.flows.all())
    await idle_house.clock.run(2)

    async def stored() -> bool:
        return all(record.last_used_at is not None for record in await idle_house.store.flows.all())

    await eventually(stored)
    # The store has it first, the manager's own record a turn of the loop later.
    await eventually(lambda: all(watcher.entry.record.last_used_at is not None for watcher in flows))


async def test_after_an_engine_restart_what_ran_and_was_wanted_is_started_again(idle_house: IdleHouse) -> None:
    ran = await idle_house.create("ran", start=True)
    policyless = await idle_house.create("policyless", start=True, idle=None)
    stopped = await idle_house.create("stopped", start=True)
    await idle_house.stop(stopped)
    slept = await idle_house.create("slept", start=True)
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="slept"))
    survived = await idle_house.create("survived", start=True)
    idle_house.faults.go_away("it is restarted")
    await idle_house.settled()
    for watcher in (ran, policyless):
        idle_house.runtime.engine.flows[watcher.id].die(137)
    await idle_house.clock.run(5)
    idle_house.faults.come_back()
    for watcher in (ran, policyless):
        await eventually(lambda watcher=watcher: idle_house.starts(watcher) == 2)
        await idle_house.comes(watcher, "ready")
    assert (stopped.state, slept.state, survived.state) == ("napping", "napping", "ready")
    assert (idle_house.starts(ran), idle_house.starts(survived), idle_house.starts(slept)) == (2, 1, 1)
    assert ran.last_woke is not None
    assert ran.last_woke[1] == "its engine was restarted"


async def test_what_an_engine_ended_on_its_way_out_is_started_again_too(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.runtime.die(web.id, 143)
    await idle_house.comes(web, "error")
    await idle_house.clock.run(3)
    idle_house.faults.go_away("it is restarted")
    await idle_house.settled()
    idle_house.faults.come_back()
    await idle_house.comes(web, "ready")


async def test_a_crash_long_after_the_engine_came_back_is_a_crash(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={})
    idle_house.faults.go_away("a hiccup")
    await idle_house.settled()
    idle_house.faults.come_back()
    await idle_house.settled()
    await idle_house.clock.run(120)
    idle_house.runtime.die(web.id, 137)
    await idle_house.comes(web, "error")
    await idle_house.settled()
    assert (web.state, idle_house.starts(web)) == ("error", 1)


async def test_a_container_that_comes_back_after_it_was_lost_is_followed(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    running = web.entry.observation
    assert running is not None
    idle_house.core.observer.flow_observed(web.entry, running, None, None)
    assert web.state == "error"
    idle_house.core.observe(web.entry, replace(running))
    await idle_house.comes(web, "ready")


async def test_the_channel_s_ready_reaches_the_prober_also_when_it_comes_early(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle={"ready": {"channel": True}})
    idle_house.prober.held.clear()
    waking = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.up)
    idle_house.core.observer.channel_ready(web.entry)
    assert web.channel_ready is not None
    assert web.channel_ready.is_set()
    idle_house.prober.held.set()
    await waking
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    idle_house.prober.held.clear()
    web.begin_wake(reason="again")
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    assert not web.channel_ready.is_set()
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")


async def test_a_wake_that_failed_for_the_engine_s_absence_alone_is_no_failure_once_it_is_back(
    idle_house: IdleHouse,
) -> None:
    db = await idle_house.create("db")
    web = await idle_house.create("web", idle={"idle_timeout": 60, "depends_on": [{"container": "db"}]})
    crashed = await idle_house.create("crashed", command=["exit", "3"])
    with pytest.raises(StartFailed):
        await crashed.wake(reason="a request")
    idle_house.faults.go_away()
    await idle_house.settled()
    with pytest.raises(DependencyFailed):
        await web.wake(reason="a request")
    assert (web.state, db.state, crashed.state) == ("error", "error", "error")
    idle_house.faults.come_back()
    await idle_house.comes(web, "napping")
    await idle_house.comes(db, "napping")
    await idle_house.settled()
    assert (web.retry_in, web.failures, idle_house.core.status(web.entry).error) == (None, 0, None)
    assert crashed.state == "error", "its own failure is one still"
    await web.wake(reason="a request")


async def test_one_that_runs_though_its_engine_s_absence_made_it_fail_is_ready_once_it_is_back(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(idle={"idle_timeout": 60, "ready": {"tcp": 80}}, start=True)
    idle_house.faults.go_away()
    await idle_house.settled()
    idle_house.prober.dead.add(web.id)
    await idle_house.clock.run(60)
    await idle_house.comes(web, "error")
    idle_house.prober.dead.clear()
    idle_house.faults.come_back()
    await idle_house.comes(web, "ready")
    assert idle_house.starts(web) == 1


async def test_a_container_that_somebody_removes_is_told_of_once(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.told("container_started")
    before = len(await idle_house.activity())
    idle_house.runtime.vanish(web.id)
    await idle_house.comes(web, "error")
    await idle_house.told("container_lost")
    await idle_house.settled()
    assert [entry.type for entry in (await idle_house.activity())[before:]] == ["container_lost"]
