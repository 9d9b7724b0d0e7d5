"""Start, stop, shutdown and reboot, and the two kinds of locks."""

from __future__ import annotations

import asyncio

import pytest

from tests.pve.container import Behaviour
from tests.unit.pve.conftest import Api, served, until

C = "/nodes/pve1/lxc"
NEVER = Behaviour(ignores_shutdown=True)


def got_timeout(vmid: int) -> str:
    return f"can't lock file '/run/lock/lxc/pve-config-{vmid}.lock' - got timeout"


async def status(api: Api, vmid: int) -> str:
    return str((await api.get(f"{C}/{vmid}/status/current")).data["status"])


async def test_a_start_and_a_stop_take_effect_with_their_tasks(api: Api) -> None:
    vmid = api.pve.add_container()
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "OK"
    told = (await api.get(f"{C}/{vmid}/status/current")).data
    assert (told["status"], told["type"], told["ha"]) == ("running", "lxc", {"managed": 0})
    assert told["pid"] > 0
    assert await api.ends("POST", f"{C}/{vmid}/status/stop") == "OK"
    told = (await api.get(f"{C}/{vmid}/status/current")).data
    assert (told["status"], told["uptime"], told["disk"], "pid" in told) == ("stopped", 0, 0, False)


async def test_a_200_for_a_start_promises_nothing_a_missing_container_fails_in_its_task(api: Api) -> None:
    reply = await api.post(f"{C}/999/status/start")
    assert reply.status == 200
    assert (await api.task(reply.data))["exitstatus"] == "Configuration file 'nodes/pve1/lxc/999.conf' does not exist"


@pytest.mark.parametrize(
    ("running", "verb", "text"),
    [
        (True, "start", "CT {} already running"),
        (True, "resume", "CT {} already running"),
        (False, "stop", "CT {} not running"),
        (False, "shutdown", "CT {} not running"),
        (False, "suspend", "CT {} not running"),
        (False, "reboot", "VM {} not running"),
    ],
)
async def test_what_is_so_already_is_a_500_before_any_task(api: Api, running: bool, verb: str, text: str) -> None:
    vmid = api.pve.add_container(running=running)
    reply = await api.post(f"{C}/{vmid}/status/{verb}")
    assert (reply.status, reply.reason, reply.message) == (500, text.format(vmid), f"{text.format(vmid)}\n")
    assert api.pve.cluster.tasks.all == {}


async def test_a_template_does_not_start(api: Api) -> None:
    vmid = api.pve.add_container(template=True)
    assert "template" in await api.ends("POST", f"{C}/{vmid}/status/start")


# --- shutdown ---------------------------------------------------------------------------------------------------------


async def test_a_container_that_does_not_stop_makes_the_shutdown_fail_after_two_waits() -> None:
    async with served(second=0.05) as api:
        vmid = api.pve.add_container(running=True, behaviour=NEVER)
        began = asyncio.get_running_loop().time()
        assert await api.ends("POST", f"{C}/{vmid}/status/shutdown", timeout=2) == "container did not stop"
        assert asyncio.get_running_loop().time() - began >= 0.2
        assert await status(api, vmid) == "running"
        assert await api.ends("POST", f"{C}/{vmid}/status/shutdown", timeout=2, forceStop=1) == "OK"
        assert await status(api, vmid) == "stopped"


async def test_a_shutdown_holds_the_lock_for_its_whole_time_so_a_stop_meanwhile_fails() -> None:
    async with served(lock_wait=0.05) as api:
        vmid = api.pve.add_container(running=True, behaviour=NEVER)
        shutdown = (await api.post(f"{C}/{vmid}/status/shutdown", timeout=60)).data
        await until(lambda: api.pve.containers[vmid].flock.held, "the shutdown begins")
        assert await api.ends("POST", f"{C}/{vmid}/status/stop") == got_timeout(vmid)
        assert await status(api, vmid) == "running"
        assert await api.ends("POST", f"{C}/{vmid}/status/stop", **{"overrule-shutdown": 1}) == "OK"
        assert (await api.task(shutdown))["exitstatus"] == "unexpected status"
        assert await status(api, vmid) == "stopped"


async def test_a_reboot_applies_what_is_pending_and_ends_running(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    await api.put(f"{C}/{vmid}/config", cmode="tty")
    assert await api.ends("POST", f"{C}/{vmid}/status/reboot", timeout=5) == "OK"
    assert await status(api, vmid) == "running"
    assert api.pve.containers[vmid].config["cmode"] == "tty"


async def test_a_suspend_fails_without_criu_and_stops_the_container_with_it(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    assert "lxc-checkpoint" in await api.ends("POST", f"{C}/{vmid}/status/suspend")
    assert await status(api, vmid) == "running"
    api.pve.cluster.criu = True
    assert await api.ends("POST", f"{C}/{vmid}/status/suspend") == "OK"
    assert await status(api, vmid) == "stopped"  # never `suspended`, nor `paused`
    assert await api.ends("POST", f"{C}/{vmid}/status/resume") == "OK"
    assert await status(api, vmid) == "running"


# --- locks ------------------------------------------------------------------------------------------------------------


async def test_the_second_action_waits_for_the_first() -> None:
    async with served(task_time=0.1, lock_wait=20) as api:
        vmid = api.pve.add_container(running=True, behaviour=Behaviour(stop_time=0.2))
        first = (await api.post(f"{C}/{vmid}/status/shutdown")).data
        second = (await api.post(f"{C}/{vmid}/status/stop")).data
        assert (await api.task(first))["exitstatus"] == "OK"
        assert (await api.task(second))["exitstatus"] == "OK"


async def test_a_held_flock_makes_tasks_and_changes_give_up(api: Api) -> None:
    api.pve.cluster.timing.lock_wait = 0.05
    vmid = api.pve.add_container()
    await api.pve.faults.hold_flock(vmid)
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == got_timeout(vmid)
    reply = await api.put(f"{C}/{vmid}/config", tags="x")
    assert (reply.status, reply.reason) == (500, got_timeout(vmid))
    api.pve.faults.release_flock(vmid)
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "OK"


async def test_a_lock_in_the_configuration_is_a_500_for_changes_and_a_failing_task_for_the_rest(api: Api) -> None:
    vmid, runs = api.pve.add_container(), api.pve.add_container(running=True)
    for each in (vmid, runs):
        api.pve.faults.hold_lock(each, "backup")
    reply = await api.put(f"{C}/{vmid}/config", tags="x")
    assert (reply.status, reply.reason) == (500, "CT is locked (backup)")
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "CT is locked (backup)"
    assert await api.ends("POST", f"{C}/{runs}/status/stop") == "CT is locked (backup)"
    assert await api.ends("POST", f"{C}/{runs}/status/shutdown") == "CT is locked (backup)"
    assert await api.ends("DELETE", f"{C}/{vmid}") == "CT is locked (backup)"
    assert (await api.get(f"{C}/{vmid}/status/current")).data["lock"] == "backup"
    api.pve.faults.release_lock(vmid)
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "OK"


async def test_a_lock_that_was_put_can_not_be_taken_away_again_by_the_api(api: Api) -> None:
    vmid = api.pve.add_container()
    assert (await api.put(f"{C}/{vmid}/config", lock="backup")).status == 200
    assert (await api.put(f"{C}/{vmid}/config", delete="lock")).reason == "CT is locked (backup)"


# --- high availability ------------------------------------------------------------------------------------------------


async def test_the_task_of_a_highly_available_container_only_files_the_request() -> None:
    async with served(ha_delay=30) as api:
        vmid = api.pve.add_container(ha=True)
        upid = (await api.post(f"{C}/{vmid}/status/start")).data
        assert upid.split(":")[5] == "hastart"
        assert (await api.task(upid))["exitstatus"] == "OK"
        told = (await api.get(f"{C}/{vmid}/status/current")).data
        assert (told["status"], told["ha"]["managed"]) == ("stopped", 1)


async def test_the_state_of_a_highly_available_container_comes_later() -> None:
    async with served(ha_delay=0.01) as api:
        vmid = api.pve.add_container(ha=True)
        await api.ends("POST", f"{C}/{vmid}/status/start")
        await until(lambda: api.pve.containers[vmid].running, "it starts")
        upid = (await api.post(f"{C}/{vmid}/status/stop")).data
        assert upid.split(":")[5] == "hastop"
        await until(lambda: not api.pve.containers[vmid].running, "it stops")
