"""What runs, told late by /cluster/resources and at once by the list of a node."""

from __future__ import annotations

from typing import Any

from tests.unit.pve.conftest import Api, Clock, served

C = "/nodes/pve1/lxc"


async def resources(api: Api) -> dict[int, dict[str, Any]]:
    return {row["vmid"]: row for row in (await api.get("/cluster/resources", type="vm")).data}


async def test_the_resources_are_as_old_as_the_last_report_and_the_list_is_not() -> None:
    clock = Clock()
    async with served(clock=clock, staleness=10) as api:
        vmid = api.pve.add_container()
        clock.now += 3
        await api.ends("POST", f"{C}/{vmid}/status/start")
        assert (await api.get(C)).data[0]["status"] == "running"
        assert (await resources(api))[vmid]["status"] == "stopped"
        clock.now += 6.9
        assert (await resources(api))[vmid]["status"] == "stopped"
        clock.now += 0.2
        row = (await resources(api))[vmid]
        assert (row["id"], row["type"], row["node"], row["status"]) == (f"lxc/{vmid}", "lxc", "pve1", "running")
        await api.ends("POST", f"{C}/{vmid}/status/stop")
        assert (await resources(api))[vmid]["status"] == "running"
        clock.now += 10
        assert (await resources(api))[vmid]["status"] == "stopped"


async def test_a_new_container_is_unknown_until_the_next_report_and_a_removed_one_is_gone_at_once() -> None:
    clock = Clock()
    async with served(clock=clock, staleness=10) as api:
        await api.ends("POST", C, vmid=300, ostemplate="local:vztmpl/service.tar")
        row = (await resources(api))[300]
        assert (row["status"], "name" in row, "maxmem" in row) == ("unknown", False, False)
        clock.now += 10
        assert (await resources(api))[300]["status"] == "stopped"
        await api.ends("DELETE", f"{C}/300")
        assert await resources(api) == {}


async def test_tags_and_locks_are_fresh(api: Api) -> None:
    vmid = api.pve.add_container()
    await api.put(f"{C}/{vmid}/config", tags="flow-manager")
    api.pve.faults.hold_lock(vmid, "snapshot")
    row = (await resources(api))[vmid]
    assert (row["tags"], row["lock"]) == ("flow-manager", "snapshot")


async def test_the_containers_of_a_silent_node_are_unknown(api: Api) -> None:
    vmid = api.pve.add_container("pve2", running=True)
    api.pve.faults.node_offline("pve2")
    assert (await resources(api))[vmid]["status"] == "unknown"


async def test_a_status_may_flap(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.flap(vmid)
    assert {(await resources(api))[vmid]["status"] for _ in range(2)} == {"unknown", "stopped"}


async def test_a_container_goes_to_another_node(api: Api) -> None:
    vmid = api.pve.add_container("pve1", running=True)
    await api.pve.containers[vmid].migrate("pve2")
    assert (await resources(api))[vmid]["node"] == "pve2"
    assert (await api.get(f"{C}/{vmid}/status/current")).status == 500
    assert (await api.get(f"/nodes/pve2/lxc/{vmid}/status/current")).data["status"] == "running"


async def test_a_person_starts_stops_and_removes_containers(api: Api) -> None:
    vmid = api.pve.add_container()
    container = api.pve.containers[vmid]
    for verb, status in ((container.start_outside, "running"), (container.stop_outside, "stopped")):
        await verb()
        assert (await api.get(C)).data[0]["status"] == status
    await container.remove_outside()
    assert (await api.get(C)).data == []


async def test_all_kinds_of_resources_come_together(api: Api) -> None:
    api.pve.add_container()
    kinds = {row["type"] for row in (await api.get("/cluster/resources")).data}
    assert kinds == {"lxc", "node", "storage"}
    assert (await api.get("/cluster/resources", type="disk")).status == 400


async def test_virtual_machines_stand_among_the_resources_and_have_numbers_of_their_own(api: Api) -> None:
    machine, vmid = api.pve.add_machine(), api.pve.add_container()
    assert {number: row["type"] for number, row in (await resources(api)).items()} == {machine: "qemu", vmid: "lxc"}
    assert [row["vmid"] for row in (await api.get(C)).data] == [vmid]
    assert (await api.get("/cluster/nextid", vmid=machine)).status == 400
    reply = await api.post(C, vmid=machine, ostemplate="local:vztmpl/service.tar")
    assert reply.reason == f"VM {machine} already exists on node 'pve1'"
    assert (await api.get(f"{C}/{machine}/status/current")).status == 500


async def test_the_uptime_may_be_less_than_nothing_just_after_a_start() -> None:
    clock = Clock()
    async with served(clock=clock) as api:
        vmid = api.pve.add_container(running=True)
        assert (await api.get(f"{C}/{vmid}/status/current")).data["uptime"] == -1
        clock.now += 3
        assert (await api.get(f"{C}/{vmid}/status/current")).data["uptime"] == 3


async def test_the_status_of_a_cluster_has_an_entry_for_itself_and_that_of_a_single_node_has_not(api: Api) -> None:
    rows = (await api.get("/cluster/status")).data
    assert [(row["type"], row["name"]) for row in rows] == [("node", "pve1"), ("node", "pve2"), ("cluster", "emulated")]
    assert [row["local"] for row in rows[:2]] == [1, 0]
    assert (rows[2]["nodes"], rows[2]["quorate"]) == (2, 1)
    async with served(nodes=("alone",)) as single:
        assert [row["type"] for row in (await single.get("/cluster/status")).data] == ["node"]


async def test_a_node_tells_how_it_is_to_those_with_sys_audit(api: Api) -> None:
    status = (await api.get("/nodes/pve1/status")).data
    assert len(status["loadavg"]) == 3
    assert all(isinstance(each, str) for each in status["loadavg"])
    assert "maxmem" in (await api.get("/nodes")).data[0]
    api.pve.faults.remove_right("flow@pve!flow", "Sys.Audit")
    assert (await api.get("/nodes/pve1/status")).status == 403
    assert "maxmem" not in (await api.get("/nodes")).data[0]


async def test_interfaces_are_null_for_a_stopped_and_for_a_missing_container(api: Api) -> None:
    vmid = api.pve.add_container()
    assert (await api.get(f"{C}/{vmid}/interfaces")).body == {"data": None}
    assert (await api.get(f"{C}/999/interfaces")).body == {"data": None}


async def test_interfaces_tell_the_address_where_the_container_answers(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    rows = {row["name"]: row for row in (await api.get(f"{C}/{vmid}/interfaces")).data}
    assert set(rows) == {"lo", "eth0"}
    address = api.pve.address(vmid).partition(":")[0]
    assert rows["eth0"]["inet"] == f"{address}/24"
    four, six = rows["eth0"]["ip-addresses"]
    assert four == {"ip-address": address, "ip-address-type": "inet", "prefix": "24"}
    assert (six["ip-address-type"], six["ip-address"].startswith("fe80:")) == ("inet6", True)


async def test_a_thousand_containers_are_listed_in_one_call(api: Api) -> None:
    for _ in range(1000):
        api.pve.add_container()
    assert len(await resources(api)) == 1000
    assert len((await api.get(C)).data) == 1000
    assert api.pve.calls()["GET /cluster/resources"] == 1
