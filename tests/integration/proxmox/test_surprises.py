"""Where a Proxmox VE server does something else than one would think, and what this runtime makes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.idle.upstream import candidates
from flow_manager.util.ids import lxc_flow_id, new_flow_id
from tests.contract.harness import Events, until
from tests.integration.proxmox.conftest import NARROW, Lab, make_spec
from tests.pve.container import Behaviour


async def test_a_missing_container_is_a_500_and_told_as_not_found(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    vmid = int((await runtime.inspect(id)).runtime_id or 0)
    await lab.pve.containers[vmid].remove_outside()
    for call in (runtime.inspect, runtime.start, runtime.stop, runtime.kill):
        with pytest.raises(errors.ContainerNotFound):
            await call(id)
    await runtime.remove(id, force=True)


async def test_a_wrong_token_has_an_empty_answer_and_is_told_in_words(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(secret="11111111-2222-3333-4444-555555555555"))
    with pytest.raises(errors.RuntimeUnavailable) as caught:
        await runtime.ping()
    assert "does not accept the login" in caught.value.message
    for call in (runtime.list, runtime.glance):
        with pytest.raises(errors.RuntimeUnavailable):
            await call()


async def test_a_start_that_was_taken_and_fails_is_a_failed_start_with_its_reason(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    lab.pve.faults.fail_next("vzstart", "startup for container '100' failed")
    with pytest.raises(errors.StartFailed) as caught:
        await runtime.start(id)
    assert "startup for container" in caught.value.details["reason"]
    seen = await runtime.inspect(id)
    assert (seen.state, "startup for container" in (seen.error or "")) == ("stopped", True)
    assert (await runtime.start(id)).state == "running"


async def test_warnings_are_a_success(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    lab.pve.faults.fail_next("vzstart", "WARNINGS: 1")
    assert (await runtime.start(id)).state == "running"


@pytest.mark.parametrize("act", ["start", "stop"])
async def test_an_order_whose_answer_was_lost_is_not_given_again(lab: Lab, act: str) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container(running=act == "stop"))
    action = "start" if act == "start" else "shutdown"
    lab.pve.faults.recycle(f"POST */status/{action}")
    seen = await getattr(runtime, act)(id)
    assert seen.running is (act == "start")
    assert lab.actions(action) == 1


async def test_an_order_that_never_arrived_is_given_again(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    lab.pve.faults.cut("POST */status/start")
    assert (await runtime.start(id)).state == "running"


async def test_reads_are_repeated_over_cut_connections(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    id = await lab.adopted(runtime, lab.pve.add_container(running=True))
    lab.pve.faults.cut("GET */status/current", times=2)
    assert (await runtime.inspect(id)).state == "running"


async def test_a_backup_is_waited_for(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    lab.pve.faults.hold_lock(vmid, "backup")
    starting = asyncio.create_task(runtime.start(id))
    await asyncio.sleep(0.6)
    assert not starting.done()
    lab.pve.faults.release_lock(vmid)
    assert (await asyncio.wait_for(starting, 20)).state == "running"


async def test_who_waits_for_a_lock_is_told_which_one_and_when_it_goes_on(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    assert runtime._starter._orders.lock_seconds == 60
    lab.pve.faults.hold_lock(vmid, "backup")
    async with Events(runtime) as events:
        starting = asyncio.create_task(runtime.start(id))
        assert (await events.wait_for("waiting", id)).reason == "its container's lock (backup)"
        lab.pve.faults.release_lock(vmid)
        assert (await events.wait_for("waited", id)).reason == "its container's lock (backup)"
        assert (await starting).state == "running"
        assert events.of(id).count("waiting") == 1


async def test_a_lock_that_stays_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    monkeypatch.setattr(runtime._starter._orders, "lock_seconds", 0.5)
    lab.pve.faults.hold_lock(vmid, "backup")
    with pytest.raises(errors.Conflict) as caught:
        await runtime.start(id)
    assert caught.value.details["operation"] == "backup"
    await lab.pve.faults.hold_flock(vmid)
    lab.pve.faults.release_lock(vmid)
    with pytest.raises(errors.Conflict):
        await runtime.start(id)
    lab.pve.faults.release_flock(vmid)


async def test_a_shutdown_that_holds_its_lock_is_overruled_when_its_time_is_up(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container(running=True, behaviour=Behaviour(ignores_shutdown=True)))
    before = time.monotonic()
    assert (await runtime.stop(id, timeout=1)).state == "stopped"
    assert 0.9 < time.monotonic() - before < 10
    assert (lab.actions("shutdown"), lab.actions("stop")) == (1, 1)


async def test_a_shutdown_that_an_earlier_manager_ordered_is_overruled(lab: Lab) -> None:
    settings = lab.settings()
    behaviour = Behaviour(ignores_shutdown=True)
    vmid = lab.pve.add_container(running=True, behaviour=behaviour)
    former = await lab.open(settings)
    await former.client.post(f"nodes/pve1/lxc/{vmid}/status/shutdown", timeout=60)
    await former.close()
    runtime = await lab.open(settings, instance="next")
    id = await lab.adopted(runtime, vmid)
    assert (await asyncio.wait_for(runtime.kill(id), 20)).state == "stopped"


async def test_before_8_2_a_shutdown_is_waited_for_and_nothing_is_asked_for_that_is_not_known(
    make_lab: Callable[..., Any],
) -> None:
    lab: Lab = await make_lab(version="8.1.4")
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container(running=True, behaviour=Behaviour(ignores_shutdown=True)))
    assert (await runtime.stop(id, timeout=1)).state == "stopped"


async def test_a_server_that_refuses_to_overrule_a_shutdown_is_asked_for_it_once(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(version="8.1.4")
    runtime = await lab.open()
    ids = [
        await lab.adopted(runtime, lab.pve.add_container(running=True, behaviour=Behaviour(ignores_shutdown=True)))
        for _ in range(2)
    ]
    for id in ids:
        assert (await runtime.stop(id, timeout=1)).state == "stopped"
    asked = [each for each in lab.pve.requests if "overrule-shutdown" in each.params]
    assert [each.status for each in asked] == [400]


async def test_a_server_that_sees_an_end_late_is_waited_for(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(linger=1.5)
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    assert (await runtime.start(id)).state == "running"
    async with Events(runtime) as events:
        assert (await runtime.stop(id, timeout=5)).state == "stopped"
        assert (await runtime.start(id)).state == "running"  # never "already running": that was the one that ended
        await events.wait_for("started", id)
        assert [type for type in events.of(id) if type != "health"] == ["died", "started"]
    assert (await runtime.kill(id)).state == "stopped"
    await runtime.remove(id)


async def test_a_start_after_a_stop_that_was_given_up_runs_and_goes_on(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container(running=True, behaviour=Behaviour(stop_time=1.0)))
    stopping = asyncio.create_task(runtime.stop(id, timeout=30))
    await asyncio.sleep(0.3)
    stopping.cancel()
    await asyncio.wait([stopping])
    # It runs, and is about to end: who wants it now must not be told that it runs.
    assert (await asyncio.wait_for(runtime.start(id), 20)).state == "running"
    await asyncio.sleep(1.2)
    assert (await runtime.inspect(id)).state == "running"


async def test_a_kill_of_one_whose_start_was_given_up_leaves_it_stopped(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(task_time=0.5)
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container())
    starting = asyncio.create_task(runtime.start(id))

    async def ordered() -> bool:
        return lab.actions("start") == 1

    await until(ordered, "the server was told to start it")
    starting.cancel()
    await asyncio.wait([starting])
    # It does not run yet, and is about to: who wants it ended must not be told that it has.
    assert (await asyncio.wait_for(runtime.kill(id), 20)).state == "stopped"
    await asyncio.sleep(1)
    assert (await runtime.inspect(id)).state == "stopped"


async def test_one_under_high_availability_is_followed_until_it_is_so(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(ha_delay=0.6)
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container(ha=True))
    assert (await runtime.start(id)).state == "running"
    assert (await runtime.stop(id, timeout=5)).state == "stopped"


async def test_a_list_that_is_ten_seconds_late_tells_no_lies(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(staleness=3.0)
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    async with Events(runtime) as events:
        for _ in range(2):
            assert (await runtime.start(id)).state == "running"
            await asyncio.sleep(0.5)
            assert [flow.state for flow in await runtime.glance()] == ["running"]
            assert (await runtime.stop(id, timeout=5)).state == "stopped"
            await asyncio.sleep(0.5)
            assert [flow.state for flow in await runtime.glance()] == ["stopped"]
        told = [type for type in events.of(id) if type != "health"]
        assert told == ["started", "died"] * 2


async def test_unknown_is_no_news(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container(running=True)
    id = await lab.adopted(runtime, vmid)
    lab.pve.faults.flap(vmid)
    async with Events(runtime) as events:
        await asyncio.sleep(10 * 0.1)
        assert [type for type in events.of(id) if type != "health"] == []
        assert (await runtime.glance())[0].state == "running"


async def test_before_8_3_the_words_of_an_error_are_in_the_reason_phrase_alone(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(version="8.2.4")
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    await lab.pve.containers[vmid].remove_outside()
    with pytest.raises(errors.ContainerNotFound):
        await runtime.inspect(id)
    name, password = lab.pve.user("narrow@pve")
    lab.pve.grant(name, {"/vms": ("VM.Audit",)})
    by_password = lab.settings(user=name, password=password)
    narrow = await lab.open(by_password, instance="narrow")
    other = await lab.adopted(narrow, lab.pve.add_container())
    with pytest.raises(errors.RuntimeRefused) as refused:
        await narrow.start(other)
    assert refused.value.details["privilege"] == "VM.PowerMgmt"
    with pytest.raises(errors.Unsupported) as caught:
        await runtime.create(make_spec(image="alpine-3.22-default", environment={"A": "1"}))
    assert caught.value.details["capability"] == "environment"
    made = await runtime.create(make_spec(image="alpine-3.22-default"))
    assert (await runtime.start(made.id)).state == "running"


async def test_a_right_that_is_missing_is_named_with_its_path(lab: Lab) -> None:
    runtime = await lab.open(lab.settings({"/vms": ("VM.Audit",)}))
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    with pytest.raises(errors.RuntimeRefused) as caught:
        await runtime.start(id)
    assert caught.value.details["privilege"] == "VM.PowerMgmt"
    assert caught.value.details["path"] == f"/vms/{vmid}"


async def test_a_narrow_token_is_enough_for_existing_containers(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    id = await lab.adopted(runtime, lab.pve.add_container())
    assert (await runtime.start(id)).addresses
    assert (await runtime.stop(id, timeout=5)).state == "stopped"
    assert runtime.available_node_names == ("pve1", "pve2")


async def test_an_offline_node_is_unavailable_and_its_containers_stay_known(lab: Lab) -> None:
    runtime = await lab.open()
    id = await lab.adopted(runtime, lab.pve.add_container("pve2", running=True))
    lab.pve.faults.node_offline("pve2")
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.inspect(id)
    await asyncio.sleep(0.4)
    assert [flow.id for flow in await runtime.glance()] == [id]
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.create(make_spec(proxmox=ProxmoxOptions(node="pve2")))


async def test_each_container_of_a_node_that_goes_and_comes_back_is_told_of(lab: Lab) -> None:
    runtime = await lab.open()
    away = await lab.adopted(runtime, lab.pve.add_container("pve2", running=True))
    here = await lab.adopted(runtime, lab.pve.add_container("pve1", running=True))
    async with Events(runtime) as events:
        lab.pve.faults.node_offline("pve2")
        told = await events.wait_for("unavailable", away)
        assert told.reason == "its node 'pve2' is offline"
        for act in (runtime.inspect, runtime.start, runtime.stop):
            with pytest.raises(errors.RuntimeUnavailable, match="its node 'pve2' is offline"):
                await act(away)
        assert (await runtime.inspect(here)).state == "running"
        assert {flow.id: flow.state for flow in await runtime.glance()} == {away: "running", here: "running"}
        assert {flow.id: flow.state for flow in await runtime.list()} == {away: "running", here: "running"}
        lab.pve.faults.node_online("pve2")
        await events.wait_for("available", away)
        assert (await runtime.inspect(away)).state == "running"
        assert not {"died", "removed"} & {event.type for event in events.seen}


async def test_a_node_that_is_offline_when_the_manager_starts_holds_up_none_of_the_others(lab: Lab) -> None:
    hidden = [lab.pve.add_container("pve2", tags="flow-manager", running=True) for _ in range(20)]
    seen = lab.pve.add_container("pve1", tags="flow-manager")
    lab.pve.faults.node_offline("pve2")
    runtime = await lab.open()
    assert [flow.runtime_id for flow in await runtime.list()] == [str(seen)]
    assert (await runtime.start(lxc_flow_id("lab", seen))).state == "running"
    # Each that would be asked for costs seconds.
    assert not [each.path for each in lab.pve.requests if "/nodes/pve2/lxc/" in each.path]
    for id in (lxc_flow_id("lab", hidden[0]), new_flow_id()):
        with pytest.raises(errors.RuntimeUnavailable, match="its node 'pve2' does not answer"):
            await runtime.inspect(id)
    async with Events(runtime) as events:
        lab.pve.faults.node_online("pve2")
        await events.wait_for("created", lxc_flow_id("lab", hidden[-1]))
        assert (await runtime.inspect(lxc_flow_id("lab", hidden[0]))).state == "running"
    with pytest.raises(errors.ContainerNotFound):
        await runtime.inspect(new_flow_id())


async def test_nothing_of_a_container_is_written_by_starting_and_stopping_it(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    vmid = lab.pve.add_container(description="mine\n", onboot=1, startup="order=1")
    before = dict(lab.pve.containers[vmid].config)
    id = await lab.adopted(runtime, vmid)
    await runtime.start(id)
    await runtime.stop(id)
    assert lab.pve.containers[vmid].config == before
    assert not [each for each in lab.pve.requests if each.method in ("PUT", "DELETE")]


async def test_an_unmanaged_vmid_is_nobodys_flow(lab: Lab) -> None:
    lab.pve.add_container(running=True)
    runtime = await lab.open()
    assert await runtime.list() == []
    with pytest.raises(errors.ContainerNotFound):
        await runtime.start(new_flow_id())


async def test_the_checkpoint_is_only_there_for_who_asked_for_it(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(criu=True)
    settings = lab.settings(pause=True)
    runtime = await lab.open(settings)
    assert runtime.capabilities.pause
    vmid = lab.pve.add_container(running=True)
    id = await lab.adopted(runtime, vmid)
    assert (await runtime.pause(id)).state == "paused"
    assert (await runtime.inspect(id)).state == "paused"
    other = await lab.open(settings)
    assert [flow.state for flow in await other.list()] == ["paused"]
    assert (await runtime.unpause(id)).state == "running"

    async def seen() -> bool:
        return (await other.inspect(id)).state == "running"

    await until(seen, "the other one sees that it goes on")


async def test_addresses_of_this_machine_are_only_believed_of_an_emulated_server(lab: Lab) -> None:
    for emulated in (False, True):
        settings = lab.settings(
            emulated=emulated, user="root@pam", password=lab.pve.cluster.access.users["root@pam"].password
        )
        runtime = await lab.open(settings, instance=f"m{int(emulated)}")
        id = await lab.adopted(runtime, lab.pve.add_container(running=True))
        assert bool(candidates(await runtime.inspect(id), 8080, "proxmox")) is emulated


async def test_where_flows_may_be_made_says_nothing_of_containers_that_are_there(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(nodes=("pve1",)))
    vmid = lab.pve.add_container("pve2")
    made = await runtime.create(make_spec(proxmox={"vmid": vmid, "node": "pve2"}))
    assert made.runtime_id == str(vmid)
    with pytest.raises(errors.InvalidRequest, match="no node"):
        await runtime.create(make_spec(proxmox={"vmid": vmid, "node": "pve3"}))
    with pytest.raises(errors.InvalidRequest, match="allow no flows"):
        await runtime.create(make_spec(proxmox={"template": "debian-12-standard", "node": "pve2"}))


async def test_a_node_that_hangs_holds_up_none_of_the_others(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    stuck = [await lab.adopted(runtime, lab.pve.add_container("pve2", running=True)) for _ in range(12)]
    id = await lab.adopted(runtime, lab.pve.add_container("pve1"))
    lab.pve.faults.slow(15, path="*/nodes/pve2/*", times=None)
    waiting = [asyncio.create_task(runtime.inspect(each)) for each in stuck]
    await asyncio.sleep(0.3)
    assert (await runtime.start(id)).state == "running"
    assert not any(task.done() for task in waiting)
    lab.pve.faults.clear()
    await asyncio.wait(waiting)
