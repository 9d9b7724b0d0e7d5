"""Workers: their ids, their status, their log, how they end."""

from __future__ import annotations

import re

from tests.unit.pve.conftest import Api, served

C = "/nodes/pve1/lxc"
UPID = re.compile(r"UPID:pve1:[0-9A-F]{8}:[0-9A-F]{8}:[0-9A-F]{8}:vzstart:(\d+):flow@pve!flow:")


async def test_an_upid_has_nine_fields_and_names_node_type_and_who(api: Api) -> None:
    vmid = api.pve.add_container()
    upid = (await api.post(f"{C}/{vmid}/status/start")).data
    assert (match := UPID.fullmatch(upid)) and match[1] == str(vmid)
    assert len(upid.split(":")) == 9
    status = await api.task(upid)
    assert (status["upid"], status["user"], status["tokenid"]) == (upid, "flow@pve", "flow")
    assert (f"{status['pid']:08X}", f"{status['pstart']:08X}") == tuple(upid.split(":")[2:4])
    assert (status["type"], status["id"], status["exitstatus"]) == ("vzstart", str(vmid), "OK")


async def test_a_running_task_has_no_exit_status_and_takes_its_time() -> None:
    async with served(task_time=30) as api:
        vmid = api.pve.add_container()
        upid = (await api.post(f"{C}/{vmid}/status/start")).data
        status = (await api.get(f"/nodes/pve1/tasks/{upid}/status")).data
        assert (status["status"], "exitstatus" in status) == ("running", False)
        assert not api.pve.containers[vmid].running
        assert (await api.get(f"/nodes/pve1/tasks/{upid}/log")).data == [{"n": 1, "t": "no content"}]
        active = (await api.get("/nodes/pve1/tasks", source="active")).data
        assert [row["upid"] for row in active] == [upid]
        assert (await api.get("/nodes/pve1/tasks")).data == []


async def test_a_task_can_be_killed_and_ends_with_an_unexpected_status() -> None:
    async with served(task_time=30) as api:
        vmid = api.pve.add_container()
        upid = (await api.post(f"{C}/{vmid}/status/start")).data
        api.pve.grant("flow@pve", {"/nodes": ("Sys.Modify", "Sys.Audit")})
        assert (await api.delete(f"/nodes/pve1/tasks/{upid}")).body == {"data": None}
        assert (await api.task(upid))["exitstatus"] == "unexpected status"


async def test_the_log_ends_with_ok_or_the_error(api: Api) -> None:
    vmid = api.pve.add_container()
    upid = (await api.post(f"{C}/{vmid}/status/start")).data
    await api.task(upid)
    reply = await api.get(f"/nodes/pve1/tasks/{upid}/log")
    assert reply.body == {"data": [{"n": 1, "t": "TASK OK"}], "total": 1}
    api.pve.faults.fail_next("vzstop", "something broke")
    upid = (await api.post(f"{C}/{vmid}/status/stop")).data
    assert (await api.task(upid))["exitstatus"] == "something broke"
    failed = (await api.get("/nodes/pve1/tasks", statusfilter="error,warning")).data
    assert [row["upid"] for row in failed] == [upid]
    log = (await api.get(f"/nodes/pve1/tasks/{upid}/log", limit=0)).data
    assert log[-1]["t"] == "TASK ERROR: something broke"


async def test_a_task_that_is_made_to_fail_has_no_effect_and_one_with_warnings_has(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.fail_next("vzstart", f"startup for container '{vmid}' failed")
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == f"startup for container '{vmid}' failed"
    assert not api.pve.containers[vmid].running
    api.pve.faults.fail_next("vzstart", "WARNINGS: 2")
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "WARNINGS: 2"
    assert api.pve.containers[vmid].running
    assert await api.ends("POST", f"{C}/{vmid}/status/stop") == "OK"


async def test_the_list_comes_newest_first_in_pages_with_a_total(api: Api) -> None:
    vmids = [api.pve.add_container() for _ in range(3)]
    upids = [(await api.post(f"{C}/{vmid}/status/start")).data for vmid in vmids]
    for upid in upids:
        await api.task(upid)
    reply = await api.get("/nodes/pve1/tasks", limit=2)
    assert ([row["upid"] for row in reply.data], reply.body["total"]) == (upids[:0:-1], 3)
    assert {row["status"] for row in reply.data} == {"OK"}
    one = (await api.get("/nodes/pve1/tasks", vmid=vmids[0])).data
    assert [row["upid"] for row in one] == upids[:1]
    assert (await api.get("/nodes/pve1/tasks", typefilter="vzstop")).data == []
    assert (await api.get("/nodes/pve1/tasks", errors=1)).data == []
    assert (await api.get("/nodes/pve1/tasks", since=one[0]["starttime"] + 1000)).data == []
    assert (await api.get("/nodes/pve2/tasks")).data == []
    assert {row["upid"] for row in (await api.get("/cluster/tasks")).data} == set(upids)


async def test_a_task_that_is_not_there_or_not_even_a_name_is_a_400(api: Api) -> None:
    reply = await api.get("/nodes/pve1/tasks/UPID:pve1:00000001:00000001:00000001:vzstart:1:a@pve:/status")
    assert (reply.status, reply.body["errors"]) == (400, {"upid": "no such task"})
    reply = await api.get("/nodes/pve1/tasks/nonsense/status")
    assert (reply.status, reply.body["errors"]) == (400, {"upid": "unable to parse worker upid"})


async def test_the_tasks_of_others_need_sys_audit(api: Api) -> None:
    vmid = api.pve.add_container()
    upid = (await api.post(f"{C}/{vmid}/status/start")).data
    await api.task(upid)
    role = {"/vms": ("VM.Audit", "VM.PowerMgmt")}
    other = Api.by_token(api.pve, api.session, api.pve.token("other", user="other@pve", role=role))
    assert (await other.get(f"/nodes/pve1/tasks/{upid}/status")).status == 403
    assert (await other.get("/nodes/pve1/tasks")).data == []
    assert await other.ends("POST", f"{C}/{vmid}/status/stop") == "OK"  # its own it sees without
    assert len((await other.get("/nodes/pve1/tasks")).data) == 1
