from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from flow_manager.containers.observer import FlowObserver
from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    ContainerStopped,
    Internal,
    NotAllowed,
    RuntimeUnavailable,
    ShuttingDown,
    StartFailed,
    StopFailed,
    WakeTimeout,
)
from flow_manager.idle import waking
from flow_manager.idle.readiness_target import NotReady
from tests.unit.idle.house import UPSTREAM, IdleBuilder, IdleHouse


async def test_a_flow_that_was_made_is_asleep_and_a_request_wakes_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    assert (web.state, web.desired, web.ready_now(), web.expected_start) == ("napping", "running", False, None)
    await web.wake(reason="a request")
    assert (web.state, web.ready_now(), web.upstream) == ("ready", True, UPSTREAM.pair)
    assert [event.type for event in web.history.entries()] == ["starting", "container_woke", "waiting_ready", "ready"]
    (woke,) = await idle_house.told("woke")
    assert woke.details["reason"] == "a request"
    assert set(woke.details["steps"]) == {"dependencies", "start", "readiness"}
    assert web.last_ready == idle_house.clock.now()


async def test_the_registry_is_what_the_manager_tells(idle_house: IdleHouse) -> None:
    observer: FlowObserver = idle_house.registry
    assert idle_house.core.observer is observer


async def test_a_thousand_waiters_make_one_start(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    await asyncio.gather(*(web.wake(reason=f"request {number}") for number in range(1000)))
    assert idle_house.starts(web) == 1
    assert web.ready_now()


async def test_a_caller_that_leaves_cancels_nothing(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    callers = [asyncio.create_task(web.wake(reason="a request")) for _ in range(3)]
    await idle_house.comes(web, "starting")
    callers[0].cancel()
    callers[1].cancel()
    await asyncio.wait(callers[:2])
    idle_house.prober.held.set()
    await callers[2]
    assert web.state == "ready"
    assert idle_house.starts(web) == 1


async def test_when_all_callers_leave_the_wake_goes_on(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.comes(web, "starting")
    caller.cancel()
    await asyncio.wait([caller])
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")


async def test_which_check_it_waits_for_is_said(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    web.begin_wake(reason="a page")
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    assert web.explain().waiting_for == "TCP port 8000"
    assert web.explain().summary == "starting, waiting for TCP port 8000"
    assert web.history.entries()[-1].message == "waiting for TCP port 8000"
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")
    assert web.waiting_for is None


async def test_a_readiness_that_never_passes_fails_every_waiter_at_once_with_the_same_error(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(idle={"idle_timeout": 60, "wake_timeout": 5})
    idle_house.prober.failing[web.id] = NotReady("TCP port 8000", "it refuses connections", reason="timeout")
    results = await asyncio.gather(*(web.wake(reason="a request") for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {WakeTimeout}
    assert len({id(result) for result in results}) == 1
    error = results[0]
    assert isinstance(error, WakeTimeout)
    assert error.details["waited_for"] == "TCP port 8000"
    assert error.details["retry_after"] >= 1
    assert web.state == "error"
    assert "refuses connections" in (web.error or "")
    assert web.history.entries()[-1].type == "error"
    (entry,) = await idle_house.told("wake_failed")
    assert entry.details["crashes"] == 1
    assert idle_house.statuses[-1].flow_state == "error"
    assert "refuses connections" in (idle_house.statuses[-1].error or "")


async def test_a_start_that_fails_is_an_error_with_its_reason_and_code(idle_house: IdleHouse) -> None:
    web = await idle_house.create(command=["no-such-command"])
    with pytest.raises(StartFailed) as failed:
        await web.wake(reason="a request")
    assert failed.value.details["exit_code"] == 127
    assert (web.state, web.failures) == ("error", 1)


async def test_a_flow_that_dies_while_it_starts_fails_its_waiters_with_the_exit_code(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.runtime.die(web.id, 3)
    with pytest.raises(StartFailed) as failed:
        await caller
    assert failed.value.details["exit_code"] == 3
    assert web.state == "error"


async def test_a_flow_that_ends_with_0_while_it_starts_naps_and_its_waiters_hear_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.runtime.die(web.id, 0)
    with pytest.raises(ContainerStopped):
        await caller
    assert (web.state, web.failures) == ("napping", 0)


async def test_after_a_failure_traffic_is_held_back_longer_each_time_and_a_person_is_not(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create()
    idle_house.prober.failing[web.id] = NotReady("TCP port 8000", "refused", reason="timeout")
    for expected in (1, 2, 4, 8):
        with pytest.raises(WakeTimeout):
            await web.wake(reason="a request")
        starts = idle_house.starts(web)
        assert web.retry_in == pytest.approx(expected)
        with pytest.raises(WakeTimeout) as held:
            await web.wake(reason="another request")
        assert held.value.details["retry_after"] == expected
        assert idle_house.starts(web) == starts
        await idle_house.clock.run(expected)
    assert web.failures == 4
    with pytest.raises(WakeTimeout):
        await web.wake(reason="a request")
    del idle_house.prober.failing[web.id]
    await web.wake(reason="a person", by_request=False)
    assert web.state == "ready"
    assert web.error is None


async def test_back_off_ends_at_five_minutes(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.failing[web.id] = NotReady("TCP port 8000", "refused", reason="timeout")
    for _ in range(12):
        with pytest.raises(WakeTimeout):
            await web.wake(reason="a person", by_request=False)
    assert web.retry_in == pytest.approx(300)


async def test_a_flow_that_crashes_right_after_each_start_is_held_back_more_and_more(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    for expected in (1, 2, 4):
        await web.wake(reason="a request")
        idle_house.runtime.die(web.id, 1)
        await idle_house.comes(web, "error")
        assert web.retry_in == pytest.approx(expected)
        await idle_house.clock.run(expected)
    await web.wake(reason="a request")
    await idle_house.clock.run(59)
    lease = web.use("http", "client")
    await idle_house.clock.run(10)
    idle_house.runtime.die(web.id, 1)
    await idle_house.comes(web, "error")
    assert web.retry_in == pytest.approx(1)  # it had been well for a minute
    lease.release()


async def test_a_person_s_wake_is_no_start_of_what_runs(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await web.wake(reason="a person", by_request=False)
    assert idle_house.starts(web) == 1


async def test_what_a_client_stopped_traffic_does_not_wake_but_a_person_does(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.stop(web)
    assert (web.state, web.desired) == ("napping", "stopped")
    with pytest.raises(Conflict) as refused:
        await web.wake(reason="a request")
    assert refused.value.details["desired"] == "stopped"
    status = await idle_house.registry.wake_container(LOCAL, requests.WakeContainer(container_id="web"))
    assert (status.flow_state, status.desired, web.desired) == ("ready", "running", "running")


async def test_a_person_who_joins_a_wake_of_traffic_lifts_the_stop(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.delay("stop", 2.0)
    stopping = asyncio.create_task(idle_house.stop(web))
    await idle_house.comes(web, "stopping")
    traffic = asyncio.create_task(web.wake(reason="a request"))
    person = asyncio.create_task(web.wake(reason="a person", by_request=False))
    await idle_house.settled()
    await idle_house.clock.run(2)
    await stopping
    await person
    await traffic
    assert (web.state, web.desired) == ("ready", "running")


async def test_traffic_alone_gets_told_that_a_client_stopped_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.delay("stop", 2.0)
    stopping = asyncio.create_task(idle_house.stop(web))
    await idle_house.comes(web, "stopping")
    traffic = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.settled()
    await idle_house.clock.run(2)
    await stopping
    with pytest.raises(Conflict) as refused:
        await traffic
    assert refused.value.details["desired"] == "stopped"
    assert web.state == "napping"


async def test_a_request_during_a_stop_waits_for_its_end_and_then_wakes(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.delay("stop", 2.0)
    await idle_house.clock.run(60)
    await idle_house.comes(web, "stopping")
    assert not web.ready_now()
    request = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.settled()
    assert web.state == "stopping"
    assert idle_house.starts(web) == 1
    await idle_house.clock.run(2)
    await request
    assert web.ready_now()
    assert idle_house.starts(web) == 2


async def test_a_client_s_stop_ends_the_wake_under_way_and_its_waiters_hear_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    await idle_house.stop(web)
    with pytest.raises(Conflict) as refused:
        await caller
    assert refused.value.details["desired"] == "stopped"
    assert (web.state, web.failures) == ("napping", 0)


async def test_a_restart_brings_the_flow_back_to_those_who_wait(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    await idle_house.clock.run(1)
    await idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    idle_house.prober.held.set()
    await caller
    assert web.state == "ready"


async def test_a_restart_of_a_ready_flow_goes_through_stopping_and_starting_to_ready(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.clock.run(1)
    await idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    await idle_house.comes(web, "ready")
    states = [status.flow_state for status in idle_house.statuses if status.id == web.id]
    assert states[-4:] == ["stopping", "napping", "starting", "ready"]
    assert web.desired == "running"


async def test_a_flow_without_a_policy_is_not_woken_by_traffic_but_by_a_person(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle=None)
    with pytest.raises((NotAllowed, Conflict)):
        await web.wake(reason="a request")
    await web.wake(reason="a person", by_request=False)
    assert web.state == "ready"
    await idle_house.clock.run(100_000)
    assert web.state == "ready"
    assert web.explain().sleeps_in is None


async def test_a_flow_that_gets_another_address_while_it_runs_is_reached_there(idle_house: IdleHouse) -> None:
    web = await idle_house.create(port=8000)
    await web.wake(reason="a request")
    seen = web.entry.observation
    assert seen is not None and web.upstream == ("127.0.0.1", 8000)

    def now_has(ports: dict[str, int], addresses: tuple[str, ...] = ()) -> tuple[str, int] | None:
        idle_house.core.observe(web.entry, replace(seen, ports=ports, addresses=addresses))
        return web.upstream

    assert now_has({"8000/tcp": 4321}) == ("127.0.0.1", 4321)
    assert now_has({"8000/tcp": 4321}, ("10.0.0.9",)) == ("127.0.0.1", 4321), "the way that it had is there still"
    assert web.state == "ready"


async def test_a_flow_that_others_start_runs_its_readiness(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    await idle_house.start(web)
    assert web.state == "starting"
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")
    assert web.upstream == UPSTREAM.pair
    await idle_house.stop(web)
    await idle_house.runtime.start(web.id)
    await idle_house.comes(web, "ready")
    await web.until(lambda: web.desired == "running")


async def test_a_start_of_a_client_that_fails_is_an_error(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.faults.fail("start", StartFailed("no such device"))
    with pytest.raises(StartFailed):
        await idle_house.start(web)
    assert (web.state, web.error) == ("error", "no such device")


async def test_a_runtime_that_is_away_fails_the_wake_and_comes_back(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.faults.go_away()
    with pytest.raises(RuntimeUnavailable):
        await web.wake(reason="a request")
    assert web.state == "error"
    idle_house.faults.come_back()
    await idle_house.clock.run(1)
    await web.wake(reason="a request")


async def test_how_long_a_start_takes_is_learned(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    assert web.retry_after() == 5
    idle_house.faults.delay("start", 10.0)
    caller = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.comes(web, "starting")
    await idle_house.settled()
    await idle_house.clock.run(10)
    await caller
    assert web.expected_start == pytest.approx(10)
    await idle_house.clock.run(60)
    await idle_house.comes(web, "napping")
    assert web.retry_after() == 10
    await web.wake(reason="a request")
    assert web.expected_start == pytest.approx(7)


async def test_a_deleted_flow_fails_its_waiters(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    await idle_house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web", force=True))
    with pytest.raises(ContainerNotFound):
        await caller
    assert idle_house.registry.watcher(web.id) is None
    with pytest.raises(ContainerNotFound):
        await web.wake(reason="a request")


async def test_a_container_that_somebody_removed_fails_its_waiters(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.runtime.vanish(web.id)
    with pytest.raises((ContainerNotFound, StartFailed)):
        await caller
    await idle_house.settled()
    assert web.state == "error"


async def test_of_a_stopped_flow_whose_container_somebody_removed_nobody_is_told_to_start_it(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    await idle_house.comes(web, "ready")
    await idle_house.stop(web)
    idle_house.runtime.vanish(web.id)
    await idle_house.told("container_lost")
    with pytest.raises(ContainerNotFound):
        await web.wake(reason="a request")


async def test_the_end_of_the_manager_is_told_to_whoever_waits(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        web = await house.create()
        house.prober.held.clear()
        caller = asyncio.create_task(web.wake(reason="a request"))
        await web.until(lambda: web.waiting_for == "TCP port 8000")
    with pytest.raises(ShuttingDown):
        await caller


async def test_a_restart_whose_start_fails_is_an_error_and_is_told_to_those_who_wait(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.faults.fail("start", StartFailed("no such device"))
    with pytest.raises(StartFailed):
        await idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    with pytest.raises(StartFailed):
        await caller
    assert (web.state, web.error) == ("error", "no such device")


async def test_what_still_answers_while_a_restart_stops_it_is_not_ready(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.faults.delay("stop", 5.0)
    restart = asyncio.create_task(
        idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    )
    await idle_house.comes(web, "stopping")
    idle_house.prober.held.set()
    await idle_house.settled()
    assert (web.state, web.upstream, caller.done()) == ("stopping", None, False)
    await idle_house.clock.run(5)
    await restart
    await caller
    assert web.ready_now()


async def test_a_restart_whose_stop_fails_is_told_to_those_who_wait(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.faults.fail("stop", StopFailed("it still runs"))
    with pytest.raises(StopFailed):
        await idle_house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    with pytest.raises(StopFailed):
        await caller
    assert web.state == "stopping"
    await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")


async def test_a_wake_that_a_kill_overtook_starts_nothing_and_leaves_no_state_behind(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    gate = asyncio.Event()

    async def other() -> None:
        await gate.wait()

    holder = asyncio.create_task(idle_house.core.operate(web.entry, "other", None, LOCAL, other))
    await idle_house.settled()
    caller = asyncio.create_task(web.wake(reason="a person", by_request=False))
    await web.until(lambda: web.waiting_for == "the start")
    await idle_house.settled()
    kill = asyncio.create_task(idle_house.manager.kill_container(LOCAL, requests.KillContainer(container_id="web")))
    results = await asyncio.gather(holder, caller, kill, return_exceptions=True)
    assert [type(result) for result in results] == [Conflict, Conflict, ContainerStopped]
    await idle_house.settled()
    assert (web.state, web.attempt, idle_house.starts(web)) == ("napping", None, 1)


async def test_a_start_that_a_kill_went_before_leaves_the_flow_asleep(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.faults.delay("start", 5.0)
    starting = asyncio.create_task(idle_house.start(web))
    await idle_house.comes(web, "starting")
    kill = asyncio.create_task(idle_house.manager.kill_container(LOCAL, requests.KillContainer(container_id="web")))
    results = await asyncio.gather(starting, kill, return_exceptions=True)
    assert [type(result) for result in results] == [Conflict, ContainerStopped]
    await idle_house.settled()
    assert (web.state, web.attempt) == ("napping", None)


async def test_a_client_s_start_of_what_runs_but_failed_asks_for_its_readiness_again(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.see(web, health="unhealthy")
    assert web.state == "error"
    await idle_house.start(web)
    await idle_house.comes(web, "ready")
    assert web.attempt is None


async def test_one_that_is_started_outside_just_when_its_wake_is_refused_becomes_ready(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.stop(web)
    attempt = waking.begin(web, "traffic", person=False)
    idle_house.see(web, state="running", started_at=idle_house.clock.now() + timedelta(seconds=1))
    waking._failed(web, attempt, Conflict("somebody stopped this flow", desired="stopped"))
    await idle_house.comes(web, "ready")


async def test_requests_that_are_held_when_somebody_lets_it_sleep_wake_it_again(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    held = [asyncio.create_task(web.wake(reason="a request")) for _ in range(3)]
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    await idle_house.told("napped")
    assert [task for task in held if task.done()] == []
    idle_house.prober.held.set()
    await asyncio.gather(*held)
    assert (web.state, idle_house.starts(web)) == ("ready", 2)
    assert [event.type for event in web.history.entries()] == ["starting", "container_woke", "waiting_ready", "ready"]
    (woke,) = await idle_house.told("woke")
    assert "stop" in woke.details["steps"]


async def test_a_wake_that_no_request_waits_for_is_ended_by_a_sleep(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    person = asyncio.create_task(web.wake(reason="somebody asked", by_request=False))
    left = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    left.cancel()
    await asyncio.wait([left])
    await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    with pytest.raises(Conflict) as ended:
        await person
    assert ended.value.details == {"operation": "sleep"}
    await idle_house.settled()
    assert (web.state, idle_house.starts(web)) == ("napping", 1)


async def test_a_start_that_fails_after_the_stop_that_it_waited_for_is_a_failure(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.delay("stop", 5.0)
    await idle_house.clock.run(61)
    await idle_house.comes(web, "stopping")
    waiting = asyncio.create_task(web.wake(reason="a request"))
    await idle_house.settled()
    idle_house.faults.fail("start", StartFailed("no"))
    await idle_house.clock.run(6)
    with pytest.raises(StartFailed):
        await waiting
    assert (web.state, web.failures) == ("error", 1)
    await idle_house.told("wake_failed")


async def test_a_wake_that_is_cut_off_from_within_is_told_to_those_who_wait(
    idle_house: IdleHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = await idle_house.create()

    async def cancelled(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(waking, "wake_now", cancelled)
        with pytest.raises(Internal):
            await web.wake(reason="a request")
    assert (web.state, web.attempt) == ("error", None)
    await idle_house.clock.run(2)
    await web.wake(reason="a request")


@pytest.mark.parametrize("outcome", ["ready", "failed", "given up"])
async def test_waiters_are_answered_also_when_a_listener_raises_in_the_middle_of_it(
    idle_house: IdleHouse, outcome: str
) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    caller = asyncio.create_task(web.wake(reason="a request"))
    await web.until(lambda: web.waiting_for == "TCP port 8000")

    def raises(*_: object) -> None:
        raise RuntimeError("a listener's fault")

    idle_house.core.status_listeners.append(raises)
    web.history.subscribe(raises)
    if outcome == "ready":
        idle_house.prober.held.set()
    elif outcome == "failed":
        idle_house.prober.failing[web.id] = NotReady("TCP port 8000", "refused", reason="timeout")
        idle_house.prober.held.set()
    else:
        assert web.attempt is not None
        with pytest.raises(RuntimeError):
            web.give_up(web.attempt, Conflict("something else was wanted"))
    async with asyncio.timeout(10):
        await asyncio.wait([caller])
    error = caller.exception()
    assert (error is None) if outcome == "ready" else isinstance(error, WakeTimeout | Conflict)
    idle_house.core.status_listeners.remove(raises)


async def test_a_wake_whose_announcement_raises_is_worked_on_all_the_same(idle_house: IdleHouse) -> None:
    web = await idle_house.create()

    def raises(*_: object) -> None:
        raise RuntimeError("a listener's fault")

    unsubscribe = web.history.subscribe(raises)
    with pytest.raises(RuntimeError, match="a listener's fault"):
        web.begin_wake(reason="a request")
    unsubscribe()
    async with asyncio.timeout(10):
        await web.wake(reason="another request")
    assert web.state == "ready"
