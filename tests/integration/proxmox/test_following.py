"""Following all containers by one call for the whole cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.proxmox.absent import SELDOM
from flow_manager.runtimes.proxmox.description import write_description
from flow_manager.runtimes.proxmox.feed import READ_EVERY
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import lxc_flow_id
from tests.contract.harness import Events, until
from tests.integration.proxmox.conftest import INTERVAL, NARROW, Lab, make_spec
from tests.pve.container import Behaviour

AT_MOST_A_MINUTE = 20
NOTES = "GET /nodes/{node}/lxc/{vmid}/config"


@pytest.mark.timeout(150)
@pytest.mark.parametrize("containers", [1, 1000])
async def test_containers_at_rest_cost_one_call_a_look_however_many_they_are(lab: Lab, containers: int) -> None:
    for number in range(containers):
        lab.pve.add_container(("pve1", "pve2")[number % 2], running=number % 3 == 0, tags="flow-manager")
    runtime = await lab.open()
    assert len(await runtime.list()) == containers
    await until(_settled(lab), "all were read once", patience=100)
    before = len(lab.pve.requests)
    looks = 5
    await asyncio.sleep(looks * INTERVAL * 3)
    calls = [each.endpoint or each.path for each in lab.pve.requests[before:]]
    assert calls
    assert set(calls) <= {"GET /cluster/resources", NOTES, "GET /nodes"}
    # A look every `interval` seconds, at each third the notes of one container, seldom the nodes, and nothing else.
    made = Counter(calls)
    assert made[NOTES] <= made["GET /cluster/resources"] / READ_EVERY + 1
    assert made["GET /nodes"] <= made["GET /cluster/resources"] / SELDOM + 1
    assert (1 + 1 / READ_EVERY + 1 / SELDOM) * 60 / RuntimeSettings().interval <= AT_MOST_A_MINUTE


def _settled(lab: Lab) -> Callable[[], Any]:
    async def settled() -> bool:
        before = lab.pve.calls()
        await asyncio.sleep(3 * INTERVAL)
        after = lab.pve.calls()
        looks = after["GET /cluster/resources"] - before["GET /cluster/resources"]
        read = after[NOTES] - before[NOTES]
        at_rest = ("GET /cluster/resources", NOTES, "GET /nodes")
        return read <= looks / READ_EVERY + 1 and all(after[key] == before[key] for key in after if key not in at_rest)

    return settled


async def test_a_thousand_that_start_together_are_looked_up_by_node(lab: Lab) -> None:
    vmids = [lab.pve.add_container("pve1", tags="flow-manager") for _ in range(200)]
    runtime = await lab.open()
    assert len(await runtime.list()) == len(vmids)
    before = lab.pve.calls()
    async with Events(runtime) as events:
        for vmid in vmids:
            await lab.pve.containers[vmid].start_outside()
        await until(_all_told(events, "started", len(vmids)), "all starts are told")
    asked = lab.pve.calls() - before
    assert asked["GET /nodes/{node}/lxc/{vmid}/status/current"] <= 20
    assert asked["GET /nodes/{node}/lxc"] >= 1


def _all_told(events: Events, type: str, count: int) -> Callable[[], Any]:
    async def told() -> bool:
        return len({event.id for event in events.seen if event.type == type}) == count

    return told


async def test_a_start_and_an_end_outside_are_told_once(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    vmid = lab.pve.add_container(tags="flow-manager")
    id = lxc_flow_id("lab", vmid)
    async with Events(runtime) as events:
        await events.wait_for("created", id)
        await lab.pve.containers[vmid].start_outside()
        await events.wait_for("started", id)
        await events.wait_for("health", id)  # its address is known
        assert (await runtime.glance())[0].addresses
        await lab.pve.containers[vmid].stop_outside()
        await events.wait_for("died", id)
        await asyncio.sleep(0.5)
        assert events.of(id) == ["created", "started", "health", "died"]


async def test_an_address_by_dhcp_that_comes_after_one_of_ipv6_is_found(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    id = await lab.adopted(runtime, lab.pve.add_container(behaviour=Behaviour(lease=1.0)))
    async with Events(runtime) as events:
        early = await runtime.start(id)
        assert [address for address in early.addresses if ":" not in address] == []
        await events.wait_for("health", id)
        assert [":" in address for address in (await runtime.inspect(id)).addresses] == [False, True]
        assert events.of(id) == ["started", "health"]


async def test_who_ended_it_is_seen_among_the_tasks(lab: Lab) -> None:
    settings = lab.settings()
    runtime = await lab.open(settings)
    ended, crashed = (lab.pve.add_container(tags="flow-manager", running=True) for _ in range(2))
    assert len(await runtime.list()) == 2
    other = await lab.open(settings, instance="somebody-else")
    assert len(await other.list()) == 2
    async with Events(runtime) as events:
        await other.stop(lxc_flow_id("lab", ended), timeout=5)
        assert (await events.wait_for("died", lxc_flow_id("lab", ended))).cause == "stop"
        await lab.pve.containers[crashed].stop_outside()
        assert (await events.wait_for("died", lxc_flow_id("lab", crashed))).cause == "exit"


async def test_what_this_manager_ended_before_is_no_persons_doing(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container(tags="flow-manager", running=True)
    id = lxc_flow_id("lab", vmid)
    async with Events(runtime) as events:
        await runtime.stop(id, timeout=5)
        await runtime.start(id)
        seen = len(events.seen)
        await lab.pve.containers[vmid].stop_outside()

        async def told() -> bool:
            return any(event.type == "died" for event in events.seen[seen:])

        await until(told, "the end is told")
        assert [event.cause for event in events.seen[seen:] if event.type == "died"] == ["exit"]


async def test_an_answer_that_is_not_understood_does_not_end_the_following(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await lab.open()
    await runtime.list()
    async with Events(runtime) as events:
        with monkeypatch.context() as odd:
            odd.setattr(runtime._inventory, "read_rows", lambda: 1 / 0)
            await events.wait_for("unavailable")
        await events.wait_for("available")


async def test_a_move_to_another_node_is_followed(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    vmid = lab.pve.add_container("pve1", tags="flow-manager")
    id = lxc_flow_id("lab", vmid)
    assert (await runtime.start(id)).state == "running"
    await lab.pve.containers[vmid].migrate("pve2")
    # Nobody has told of it yet: the verb itself finds out.
    assert (await runtime.stop(id, timeout=5)).state == "stopped"
    await lab.pve.containers[vmid].migrate("pve1")
    assert (await runtime.start(id)).state == "running"


async def test_what_was_removed_outside_is_told(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    vmids = [lab.pve.add_container(tags="flow-manager") for _ in range(2)]
    assert len(await runtime.list()) == 2
    async with Events(runtime) as events:
        await lab.pve.containers[vmids[0]].remove_outside()
        await events.wait_for("removed", lxc_flow_id("lab", vmids[0]))
        assert [flow.runtime_id for flow in await runtime.glance()] == [str(vmids[1])]


async def test_rights_that_were_taken_away_do_not_pass_for_a_removal_of_everything(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container(tags="flow-manager", running=True)
    assert len(await runtime.list()) == 1
    async with Events(runtime) as events:
        lab.pve.faults.remove_right(lab.token_id, "VM.Audit")
        unavailable = await events.wait_for("unavailable")
        assert "VM.Audit" in (unavailable.reason or "")
        assert events.of(lxc_flow_id("lab", vmid)) in ([], ["health"])
        with pytest.raises(errors.RuntimeUnavailable):
            await runtime.list()
        with pytest.raises(errors.RuntimeUnavailable):
            await runtime.glance()


async def test_a_server_that_goes_and_comes_back_is_told_of_with_a_resync(lab: Lab) -> None:
    runtime = await lab.open()
    async with Events(runtime) as events:
        await runtime.list()
        lab.pve.faults.down()
        await events.wait_for("unavailable")
        with pytest.raises(errors.RuntimeUnavailable):
            await runtime.list()
        lab.pve.faults.up()
        await events.wait_for("available")
        assert [event.type for event in events.seen].count("resync") == 2


async def test_a_tag_that_comes_and_goes_is_followed(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = lxc_flow_id("lab", vmid)
    async with Events(runtime) as events:
        lab.pve.containers[vmid].config["tags"] = "flow-manager;x"
        await events.wait_for("created", id)
        lab.pve.containers[vmid].config["tags"] = "x"
        await events.wait_for("removed", id)


async def test_edited_notes_are_read_again_and_told_of(lab: Lab) -> None:
    vmids = [lab.pve.add_container(tags="flow-manager") for _ in range(3)]
    runtime = await lab.open()
    assert len(await runtime.list()) == 3
    edited = lxc_flow_id("lab", vmids[1])
    async with Events(runtime) as events:
        lab.pve.containers[vmids[1]].config["description"] = "flow-manager:\nport=81\nflow-manager:\n"
        await events.wait_for("health", edited)
        seen = {flow.id: flow.labels.get("flow-manager.port") for flow in await runtime.glance()}
        assert seen == {lxc_flow_id("lab", vmid): "81" if vmid == vmids[1] else None for vmid in vmids}
        assert [event.id for event in events.seen if event.type == "health"] == [edited]


async def test_a_tag_that_changes_and_a_start_have_the_notes_read_at_the_next_look(lab: Lab) -> None:
    vmids = [lab.pve.add_container(tags="flow-manager") for _ in range(8)]
    runtime = await lab.open(interval=0.3)
    assert len(await runtime.list()) == 8
    for vmid in vmids:
        lab.pve.containers[vmid].config["description"] = "flow-manager:\nport=81\nflow-manager:\n"
    lab.pve.containers[vmids[6]].config["tags"] = "flow-manager;edited"
    await runtime.start(lxc_flow_id("lab", vmids[7]))
    before = lab.pve.calls()

    async def read() -> bool:
        flows = {flow.id: flow.labels for flow in await runtime.glance()}
        return all("flow-manager.port" in flows[lxc_flow_id("lab", vmid)] for vmid in vmids[6:])

    await until(read, "both have been read again")
    # The turn of eight would take 24 looks.
    assert (lab.pve.calls() - before)["GET /cluster/resources"] <= 12


async def test_notes_that_cannot_be_read_just_now_change_nothing(lab: Lab) -> None:
    vmid = lab.pve.add_container(tags="flow-manager", description="flow-manager:\nport=80\nflow-manager:\n")
    runtime = await lab.open()
    assert len(await runtime.list()) == 1
    lab.pve.faults.answer(500, "got timeout", path="GET */config", times=None)
    async with Events(runtime) as events:
        before = len(lab.pve.requests)

        async def tried() -> bool:
            return any(each.path.endswith("/config") for each in lab.pve.requests[before:])

        await until(tried, "they were asked for")
        lab.pve.faults.clear()
        assert [flow.labels["flow-manager.port"] for flow in await runtime.glance()] == ["80"]
        assert events.of(lxc_flow_id("lab", vmid)) == []
    assert runtime._feed.up


async def test_only_what_is_meant_for_this_manager_is_adopted(lab: Lab) -> None:
    lab.pve.add_container(tags="flow-manager", description="flow-manager:\ninstance=another\nflow-manager:")
    lab.pve.add_container(tags="flow-manager", description="flow-manager:\nenable=false\nflow-manager:")
    lab.pve.add_container(tags="flow-manager", template=True)
    # A clone of a flow has the flow's lines, and must not pass for it.
    lines = {"flow-manager.id": "aaaabbbbcccc", "flow-manager.instance": "test-instance", "flow-manager.vmid": "9000"}
    lab.pve.add_container(tags="flow-manager", description=write_description(lines))
    mine = lab.pve.add_container(tags="flow-manager", description="flow-manager:\ninstance=test-instance\n")
    runtime = await lab.open()
    assert [flow.runtime_id for flow in await runtime.list()] == [str(mine)]


async def test_an_address_that_comes_late_is_told_of(lab: Lab) -> None:
    runtime = await lab.open()
    vmid = lab.pve.add_container()
    id = await lab.adopted(runtime, vmid)
    lab.pve.faults.answer(500, "no network yet", path="*/interfaces", times=2)
    async with Events(runtime) as events:
        assert (await runtime.start(id)).addresses == ()
        await events.wait_for("health", id)
        assert (await runtime.inspect(id)).addresses


async def test_one_who_is_another_managers_cannot_be_taken_on(lab: Lab) -> None:
    vmid = lab.pve.add_container(description="flow-manager:\ninstance=another\nflow-manager:")
    runtime = await lab.open()
    with pytest.raises(errors.NotAllowed):
        await runtime.create(make_spec(proxmox={"vmid": vmid}))
    made = await runtime.create(make_spec())
    with pytest.raises(errors.NameConflict):
        await runtime.create(make_spec(proxmox={"vmid": int(made.runtime_id or 0)}))
    template = lab.pve.add_container(template=True)
    with pytest.raises(errors.InvalidRequest):
        await runtime.create(make_spec(proxmox={"vmid": template}))
