"""The configuration: what comes back of what was put, what waits for a start, what is refused."""

from __future__ import annotations

from typing import Any

from tests.unit.pve.conftest import Api, served

C = "/nodes/pve1/lxc"


async def config(api: Api, vmid: int, **params: Any) -> dict[str, Any]:
    return dict((await api.get(f"{C}/{vmid}/config", **params)).data)


async def test_a_change_comes_back_with_another_digest(api: Api) -> None:
    vmid = api.pve.add_container()
    before = await config(api, vmid)
    assert (await api.put(f"{C}/{vmid}/config", tags="b a", memory=64)).body == {"data": None}
    after = await config(api, vmid)
    assert (after["tags"], after["memory"]) == ("b;a", 64)
    assert after["digest"] != before["digest"]


async def test_a_description_comes_back_with_a_line_end(api: Api) -> None:
    vmid = api.pve.add_container()
    await api.put(f"{C}/{vmid}/config", description="one\ntwo")
    assert (await config(api, vmid))["description"] == "one\ntwo\n"


async def test_a_net_comes_back_in_another_order_with_its_card(api: Api) -> None:
    vmid = api.pve.add_container()
    await api.put(f"{C}/{vmid}/config", net0="ip=10.0.0.5/24,gw=10.0.0.1,bridge=vmbr0,name=eth0")
    net = (await config(api, vmid))["net0"].split(",")
    assert net[:3] == ["name=eth0", "bridge=vmbr0", "gw=10.0.0.1"]
    assert net[3].startswith("hwaddr=BC:24:11:")
    assert net[4:] == ["ip=10.0.0.5/24", "type=veth"]


async def test_a_wrong_digest_changes_nothing(api: Api) -> None:
    vmid = api.pve.add_container()
    reply = await api.put(f"{C}/{vmid}/config", memory=64, digest="0" * 40)
    text = "detected modified configuration - file changed by other user? Try again."
    assert (reply.status, reply.reason) == (500, text)
    found = await config(api, vmid)
    assert found["memory"] == 512
    assert (await api.put(f"{C}/{vmid}/config", memory=64, digest=found["digest"])).status == 200


async def test_unprivileged_can_not_be_changed(api: Api) -> None:
    reply = await api.put(f"{C}/{api.pve.add_container()}/config", unprivileged=0)
    assert (reply.status, reply.reason) == (500, "unable to modify read-only option: 'unprivileged'")


async def test_an_option_is_deleted(api: Api) -> None:
    vmid = api.pve.add_container(tags="x", description="y")
    await api.put(f"{C}/{vmid}/config", delete="tags,description")
    assert {"tags", "description"}.isdisjoint(await config(api, vmid))


async def test_what_a_running_container_can_not_take_over_waits_for_its_start(api: Api) -> None:
    vmid = api.pve.add_container(running=True, onboot=1, timezone="host")
    await api.put(f"{C}/{vmid}/config", hostname="now", memory=64, env="A=1\0B=2", cmode="tty", delete="timezone")
    container = api.pve.containers[vmid]
    assert (container.config["hostname"], container.config["memory"]) == ("now", 64)
    assert container.config["cmode"] == "shell"
    rows = {row["key"]: row for row in (await api.get(f"{C}/{vmid}/pending")).data}
    assert rows["cmode"] == {"key": "cmode", "value": "shell", "pending": "tty"}
    assert rows["env"] == {"key": "env", "pending": "A=1\0B=2"}
    assert rows["timezone"] == {"key": "timezone", "value": "host", "delete": 1}
    assert rows["hostname"] == {"key": "hostname", "value": "now"}
    assert (await config(api, vmid))["cmode"] == "tty"
    assert (await config(api, vmid, current=1))["cmode"] == "shell"
    await api.ends("POST", f"{C}/{vmid}/status/stop")
    await api.ends("POST", f"{C}/{vmid}/status/start")
    assert container.environment == {"A": "1", "B": "2"}
    assert (container.config["cmode"], "timezone" in container.config) == ("tty", False)
    assert container.pending == {}


async def test_what_waits_can_be_reverted(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    await api.put(f"{C}/{vmid}/config", cmode="tty")
    await api.put(f"{C}/{vmid}/config", revert="cmode")
    assert (await config(api, vmid))["cmode"] == "shell"


async def test_env_and_entrypoint_came_with_9_1() -> None:
    async with served(version="9.0.5") as api:
        reply = await api.put(f"{C}/{api.pve.add_container()}/config", env="A=1")
        assert (reply.status, list(reply.body["errors"])) == (400, ["env"])


async def test_raw_lines_come_back_as_pairs(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.containers[vmid].raw = [("lxc.init.cwd", "/srv")]
    assert (await config(api, vmid))["lxc"] == [["lxc.init.cwd", "/srv"]]
