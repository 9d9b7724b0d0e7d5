from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from flow_manager.contract import requests
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import LOCAL
from flow_manager.contract.wake import LeaseKind
from flow_manager.errors import Conflict, ContainerStopped, NotAllowed, RuntimeUnavailable, StopFailed, Unsupported
from tests.unit.idle.house import IdleBuilder, IdleHouse


async def sleeps(house: IdleHouse, name: str = "web") -> None:
    await house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id=name))


async def test_a_flow_that_nobody_uses_falls_asleep_after_its_idle_timeout_and_not_before(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    await idle_house.clock.run(59.5)
    await idle_house.settled()
    assert web.state == "ready"
    await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")
    assert web.desired == "running"
    assert web.explain().last_slept is not None
    (napped,) = await idle_house.told("napped")
    assert napped.details == {"reason": "not used for 1 min", "method": "stop"}
    assert web.history.entries() == []
    assert web.upstream is None


@pytest.mark.parametrize("kind", ["http", "exec", "message", "dependent"])
async def test_while_it_is_in_use_it_stays_awake_however_long_that_is(idle_house: IdleHouse, kind: LeaseKind) -> None:
    web = await idle_house.create(start=True)
    lease = web.use(kind, "somebody")
    await idle_house.clock.run(30 * 60)
    assert web.state == "ready"
    assert web.explain().sleeps_in is None
    lease.release()
    await idle_house.clock.run(59)
    assert web.state == "ready"
    await idle_house.clock.run(2)
    await idle_house.comes(web, "napping")


@pytest.mark.parametrize("kind", ["websocket", "tcp", "terminal"])
async def test_an_open_connection_holds_while_something_is_seen_on_it(idle_house: IdleHouse, kind: LeaseKind) -> None:
    web = await idle_house.create(start=True)
    lease = web.use(kind, "somebody")
    for _ in range(30):
        await idle_house.clock.run(50)
        lease.touch()
    assert web.state == "ready"
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")
    lease.release()
    assert web.state == "napping"


async def test_a_busy_flow_is_left_alone_until_it_is_done(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.core.observer.channel_busy(web.entry, 600, "a long sum")
    await idle_house.clock.run(599)
    assert web.state == "ready"
    assert "a long sum" in web.explain().summary
    await idle_house.clock.run(60)
    assert web.state == "ready"
    await idle_house.clock.run(2)
    await idle_house.comes(web, "napping")


async def test_a_flow_that_says_it_is_idle_again_counts_from_there(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.core.observer.channel_busy(web.entry, 3600, None)
    await idle_house.clock.run(100)
    idle_house.core.observer.channel_idle(web.entry)
    await idle_house.clock.run(59)
    assert web.state == "ready"
    await idle_house.clock.run(2)
    await idle_house.comes(web, "napping")


async def test_with_an_idle_timeout_of_0_it_never_sleeps_but_wakes(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle={})
    await web.wake(reason="a request")
    await idle_house.clock.run(100_000)
    assert web.state == "ready"
    assert idle_house.timer.armed <= 1  # the store of its last use at most


async def test_a_request_that_comes_while_the_sleep_waits_for_its_turn_wins_in_silence(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    gate = asyncio.Event()

    async def other() -> None:
        await gate.wait()

    holder = asyncio.create_task(idle_house.core.operate(web.entry, "other", None, LOCAL, other))
    await idle_house.settled()
    await idle_house.clock.run(61)
    assert web.sleeping
    assert web.ready_now()
    lease = web.use("http", "client")
    gate.set()
    await holder
    await idle_house.settled()
    assert web.state == "ready"
    assert idle_house.counted[web.id].count("stop") == 0
    assert await idle_house.activity("napped", "operation_failed") == []
    lease.release()
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")


@pytest.mark.parametrize(("method", "call", "state"), [("pause", "pause", "paused"), ("kill", "kill", "exited")])
async def test_each_stop_method_does_what_it_says_and_a_wake_brings_it_back(
    idle_house: IdleHouse, method: str, call: str, state: str
) -> None:
    web = await idle_house.create(start=True, idle={"idle_timeout": 60, "stop_method": method})
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")
    assert call in idle_house.counted[web.id]
    assert web.entry.observation is not None
    assert web.entry.observation.state == state
    assert web.desired == "running"
    await web.wake(reason="a request")
    assert web.ready_now()


async def test_sleep_container_does_at_once_what_the_timeout_would_and_traffic_wakes_it(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await sleeps(idle_house)
    assert (web.state, web.desired) == ("napping", "running")
    await sleeps(idle_house)
    await web.wake(reason="a request")
    assert web.ready_now()


async def test_without_a_policy_sleep_container_is_refused(idle_house: IdleHouse) -> None:
    await idle_house.create(start=True, idle=None)
    with pytest.raises(NotAllowed):
        await sleeps(idle_house)


async def test_a_failed_stop_is_followed_by_a_kill_and_the_flow_is_never_silently_ready(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    seen: list[str] = []
    idle_house.faults.fail("stop", StopFailed("it still runs"))
    idle_house.manager.on_status(lambda _tenant, status: seen.append(status.flow_state))
    await idle_house.clock.run(60)
    await idle_house.comes(web, "stopping")
    await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")
    assert idle_house.counted[web.id] == ["start", "stop", "kill"]
    assert "ready" not in seen
    (failed,) = await idle_house.told("operation_failed")
    assert failed.details["operation"] == "sleep"


async def test_a_stop_that_goes_on_failing_is_tried_for_ever_with_growing_pauses_and_told_each_time(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.fail("stop", StopFailed("it still runs"))
    idle_house.faults.fail("kill", StopFailed("it still runs"), times=5)
    await idle_house.clock.run(61)
    for _ in range(40):
        await idle_house.clock.run(1)
        await asyncio.sleep(0)
    await idle_house.comes(web, "napping")
    assert idle_house.counted[web.id].count("kill") == 6
    assert len(await idle_house.told("operation_failed", 6)) == 6


async def test_a_stop_that_outlasts_its_grace_by_ten_seconds_has_failed(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={"idle_timeout": 60, "stop_timeout": 0.01})
    import flow_manager.containers.sleep as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STOP_MARGIN", 0.02)
        idle_house.faults.hang("stop")
        await idle_house.clock.run(61)
        await idle_house.told("operation_failed")
        await idle_house.clock.run(1)
        await idle_house.comes(web, "napping")
    assert idle_house.counted[web.id][-1] == "kill"


async def test_a_client_s_stop_that_fails_is_not_forgotten_either(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.fail("stop", StopFailed("it still runs"))
    with pytest.raises(StopFailed):
        await idle_house.stop(web)
    assert web.state == "stopping"
    await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")
    assert web.desired == "stopped"


async def test_a_stop_while_the_engine_is_away_is_done_when_it_is_back(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.faults.fail("stop", RuntimeUnavailable("away", kind="memory"))
    await idle_house.clock.run(60)
    await idle_house.comes(web, "stopping")
    for _ in range(4):
        await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")
    assert "kill" not in idle_house.counted[web.id]


async def test_after_the_process_stood_still_nothing_is_put_to_sleep_at_once(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.clock.advance(3600)  # no turn of the loop in between: SIGSTOP
    await idle_house.settled()
    assert web.state == "ready"
    lease = web.use("http", "who waited in the socket")
    await idle_house.clock.run(10)
    assert web.state == "ready"
    lease.release()
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")


async def test_after_standing_still_a_flow_that_nobody_wants_sleeps_a_little_later(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.clock.advance(3600)
    await idle_house.settled()
    await idle_house.clock.run(6)
    await idle_house.comes(web, "napping")


async def test_a_person_who_stops_it_outside_is_followed(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.see(web, "stop", state="exited", exit_code=137)
    await web.until(lambda: web.entry.record.desired == "stopped")
    assert (web.state, web.failures) == ("napping", 0)
    with pytest.raises(Conflict):
        await web.wake(reason="a request")
    assert web.explain().last_slept is not None


async def test_a_person_who_pauses_it_outside_is_followed(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.runtime.pause(web.id)
    await idle_house.comes(web, "napping")
    await web.until(lambda: web.entry.record.desired == "stopped")
    await idle_house.runtime.unpause(web.id)
    await idle_house.comes(web, "ready")
    await web.until(lambda: web.entry.record.desired == "running")


async def test_a_pause_that_is_refused_leaves_a_sleeping_flow_to_wake_for_traffic(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await sleeps(idle_house)
    with pytest.raises(ContainerStopped):
        await idle_house.manager.pause_container(LOCAL, requests.ChangeContainer(container_id=web.id))
    assert web.desired == "running"
    await web.wake(reason="a request")


async def test_an_unpause_of_a_flow_that_is_not_paused_is_refused_and_is_no_failure_of_it(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    await idle_house.stop(web)
    for _ in range(2):
        with pytest.raises(ContainerStopped):
            await idle_house.manager.unpause_container(LOCAL, requests.ChangeContainer(container_id=web.id))
    assert (web.state, web.failures, web.error) == ("napping", 0, None)
    assert await idle_house.activity("wake_failed") == []


async def test_an_end_with_code_0_is_a_nap_and_with_another_an_error(idle_house: IdleHouse) -> None:
    one = await idle_house.create("one", start=True)
    two = await idle_house.create("two", start=True)
    idle_house.runtime.die(one.id, 0)
    idle_house.runtime.die(two.id, 2)
    await idle_house.comes(one, "napping")
    await idle_house.comes(two, "error")
    assert one.desired == "running"
    assert "exit code 2" in (two.error or "")
    await one.wake(reason="a request")


async def test_an_error_is_not_left_by_a_comparison_that_finds_the_flow_ended(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.see(web, health="unhealthy")
    assert web.state == "error"
    idle_house.see(web, None, state="exited", exit_code=0, health="none")
    assert web.state == "error"
    await idle_house.stop(web)
    assert web.state == "napping"


async def test_a_client_s_stop_of_what_had_crashed_takes_it_out_of_error(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.runtime.die(web.id, 2)
    await idle_house.comes(web, "error")
    await idle_house.stop(web)
    assert (web.state, web.desired, web.failures) == ("napping", "stopped", 0)


async def test_a_flow_that_turns_unhealthy_is_an_error_and_a_wake_looks_again(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    idle_house.see(web, health="healthy")
    assert web.state == "ready"
    idle_house.see(web, health="unhealthy")
    assert web.state == "error"
    await idle_house.clock.run(2)
    await web.wake(reason="a request")
    assert web.state == "ready"
    assert idle_house.starts(web) == 1


async def test_unhealthy_while_starting_is_still_starting(idle_house: IdleHouse) -> None:
    web = await idle_house.create()
    idle_house.prober.held.clear()
    web.begin_wake(reason="a request")
    await web.until(lambda: web.waiting_for == "TCP port 8000")
    idle_house.see(web, health="starting")
    idle_house.see(web, health="unhealthy")
    assert web.state == "starting"
    idle_house.prober.held.set()
    await idle_house.comes(web, "ready")


async def test_probes_that_fail_three_times_in_a_row_are_an_error(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={"ready": {"tcp": 8000}})
    for _ in range(4):
        await idle_house.clock.run(15.5)
        await idle_house.settled()
    assert web.state == "ready"
    idle_house.prober.dead.add(web.id)
    for _ in range(2):
        await idle_house.clock.run(15.5)
        await idle_house.settled()
    assert (web.state, web.probe_failures) == ("ready", 2)
    idle_house.prober.dead.clear()
    await idle_house.clock.run(15.5)
    await idle_house.settled()
    assert web.probe_failures == 0
    idle_house.prober.dead.add(web.id)
    for _ in range(3):
        await idle_house.clock.run(15.5)
        await idle_house.settled()
    assert web.state == "error"
    assert "3 probes" in (web.error or "")


async def test_a_flow_that_names_no_probe_is_never_probed(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={"ready": {"channel": True}})
    await idle_house.clock.run(120)
    assert web.id not in idle_house.prober.probed


async def test_a_container_that_its_engine_restarts_is_starting_and_its_crashes_are_counted(
    idle_house: IdleHouse,
) -> None:
    web = await idle_house.create(start=True)
    idle_house.see(web, "exit", state="restarting", exit_code=1)
    assert (web.state, web.failures) == ("starting", 1)
    assert web.entry.observation is not None
    idle_house.see(web, None, state="running", exit_code=None, started_at=idle_house.clock.now())
    await idle_house.comes(web, "ready")
    assert idle_house.starts(web) == 1


async def test_a_policy_takes_effect_at_once(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True, idle={})
    before = idle_house.registry.generation
    await idle_house.clock.run(100)
    explained = await idle_house.registry.set_idle_policy(
        LOCAL, requests.SetIdlePolicy(container_id="web", idle=IdlePolicy(idle_timeout=30))
    )
    assert explained.idle is not None
    assert explained.idle.idle_timeout == 30
    assert idle_house.registry.generation > before
    assert (await idle_house.told("policy_changed"))[0].details["idle"]["idle_timeout"] == 30
    await idle_house.clock.run(1)
    await idle_house.comes(web, "napping")


async def test_a_stop_method_that_the_runtime_lacks_is_refused_when_it_is_set(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open() as house:
        from dataclasses import replace

        house.runtime.capabilities = replace(house.runtime.capabilities, pause=False)
        with pytest.raises(Unsupported):
            await house.create(idle={"stop_method": "pause"})
        await house.create()
        with pytest.raises(Unsupported):
            await house.registry.set_idle_policy(
                LOCAL, requests.SetIdlePolicy(container_id="web", idle=IdlePolicy(stop_method="pause"))
            )


async def test_at_rest_there_is_no_task_and_no_timer(idle_house: IdleHouse) -> None:
    for number in range(20):
        await idle_house.create(f"flow-{number}")
    await idle_house.settled()
    names: Callable[[], list[str]] = lambda: [task.get_name() for task in asyncio.all_tasks()]  # noqa: E731
    assert not [name for name in names() if name.startswith(("wake-", "sleep-", "alive-"))]
    assert not idle_house.registry._keeper.wheel.armed
