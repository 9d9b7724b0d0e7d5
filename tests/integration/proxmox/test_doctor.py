"""`flow-manager doctor` on a Proxmox VE set-up: what is wrong is found, with a remedy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_manager.cli.doctor.channel import channel
from flow_manager.cli.doctor.finding import Finding
from flow_manager.cli.doctor.proxmox import proxmox
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings
from tests.integration.proxmox.conftest import NARROW, Lab
from tests.pve.access import LEAST


async def findings(*runtimes: RuntimeSettings) -> list[Finding]:
    named = {f"lab{number}": runtime for number, runtime in enumerate(runtimes)}
    settings = Settings(state_dir=Path("/s"), sockets_dir=Path("/r"), runtimes=named)
    return await asyncio.to_thread(proxmox, settings)


def only(found: list[Finding], level: str) -> Finding:
    (one,) = [finding for finding in found if finding.level == level]
    assert one.mend
    return one


async def test_a_whole_set_up_is_well(lab: Lab) -> None:
    lab.pve.add_container(tags="flow-manager", description="flow-manager:\nidle-timeout=5m\nflow-manager:")
    found = await findings(lab.settings())
    assert {finding.level for finding in found} == {"ok"}
    text = "\n".join(finding.text for finding in found)
    for words in ("9.2.11", "pve1, pve2", "new containers", "all their lines"):
        assert words in text


async def test_a_narrow_login_is_enough_and_what_it_lacks_is_said(lab: Lab) -> None:
    lab.pve.add_container()
    found = await findings(lab.settings(NARROW))
    assert {finding.level for finding in found} == {"ok"}
    assert any("VM.Allocate" in finding.text for finding in found)
    assert any("Sys.Audit" in finding.text for finding in found)
    assert any("VM.Console" in finding.text for finding in found)


@pytest.mark.parametrize(
    ("changes", "word", "mend"),
    [
        ({"secret": "11111111-2222-3333-4444-555555555555"}, "login", "token add"),
        ({"ca_file": None}, "certificate", "ca_file"),
        ({"nodes": ("pve1", "pve9")}, "pve9", "nodes"),
    ],
)
async def test_what_is_wrong_is_named_with_its_remedy(lab: Lab, changes: dict[str, Any], word: str, mend: str) -> None:
    lab.pve.add_container()
    found = only(await findings(lab.settings(**changes)), "problem")
    assert word in found.text
    assert mend in found.mend


async def test_no_route_is_named(lab: Lab) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        found = only(await findings(lab.settings(url=url)), "problem")
    assert "not reached" in found.text


async def test_a_missing_right_is_named_with_its_path_and_the_command_that_gives_it(lab: Lab) -> None:
    found = only(await findings(lab.settings({"/vms": ("VM.Audit",)})), "problem")
    assert found.text == "the login lacks VM.PowerMgmt on /vms"
    assert "pveum acl modify /vms --users flow@pve --tokens 'flow@pve!flow' --roles FlowManager" in found.mend


async def test_rights_on_one_container_without_what_is_below_are_enough_for_that_one(lab: Lab) -> None:
    vmid = lab.pve.add_container()
    settings = lab.settings({f"/vms/{vmid}": ("VM.Audit", "VM.PowerMgmt")})
    access = lab.pve.cluster.access
    access.entries = [replace(entry, propagate=False) for entry in access.entries]
    found = await findings(settings)
    assert {finding.level for finding in found} == {"ok"}
    assert any(f"on /vms/{vmid}" in finding.text for finding in found)


async def test_half_the_rights_to_make_containers_are_a_warning(lab: Lab) -> None:
    lab.pve.add_container()
    settings = lab.settings()
    lab.pve.faults.remove_right(lab.token_id, "SDN.Use")
    assert "SDN.Use on /sdn/zones/localnetwork/vmbr0" in only(await findings(settings), "warning").text


@pytest.mark.parametrize(
    ("spoil", "word", "mend"),
    [
        (lambda local: setattr(local, "content", "vztmpl,iso"), "takes no disks", "--content vztmpl,iso,rootdir"),
        (lambda local: setattr(local, "active", False), "is not active on pve1", "pvesm status"),
        (lambda local: setattr(local, "enabled", False), "is not enabled on pve1", "--disable 0"),
        (lambda local: setattr(local, "content", "rootdir"), "takes templates (vztmpl)", "vztmpl"),
        (lambda local: local.templates.clear(), "there is no template", "pveam download"),
    ],
)
async def test_a_storage_that_new_containers_can_do_nothing_with_is_named(
    make_lab: Any, spoil: Callable[[Any], None], word: str, mend: str
) -> None:
    lab: Lab = await make_lab(nodes=("pve1",))
    lab.pve.add_container()
    settings = lab.settings()
    spoil(lab.pve.cluster.storages["local"])
    found = [finding for finding in await findings(settings) if finding.level == "warning"]
    assert [finding.text for finding in found if word in finding.text], found
    assert any(mend in finding.mend for finding in found), found


async def test_whoever_may_make_no_containers_is_told_nothing_of_storages(lab: Lab) -> None:
    lab.pve.add_container()
    lab.pve.cluster.storages["local"].active = False
    assert {finding.level for finding in await findings(lab.settings(NARROW))} == {"ok"}


async def test_a_storage_that_is_not_there_is_named_with_those_that_would_do(lab: Lab) -> None:
    lab.pve.add_container()
    role = {**LEAST, "/storage/local-lvm": ("Datastore.AllocateSpace", "Datastore.Audit")}
    texts = [finding.text for finding in await findings(lab.settings(role, storage="local-lvm"))]
    assert "pve1 has no storage local-lvm that the login sees; for disks there are: local" in texts


async def test_a_virtual_network_of_another_zone_is_a_bridge_too(lab: Lab) -> None:
    lab.pve.add_container()
    role = {path: given for path, given in LEAST.items() if not path.startswith("/sdn")}
    found = await findings(lab.settings({**role, "/sdn/zones/office/vnet1": ("SDN.Use",)}, bridge="vnet1"))
    assert {finding.level for finding in found} == {"ok"}


async def test_lines_that_cannot_be_read_and_ambiguous_nodes_are_named(lab: Lab) -> None:
    lab.pve.add_container(tags="flow-manager", description="flow-manager:\nidle-timeot=5m\nflow-manager:")
    settings = lab.settings()
    found = [finding.text for finding in await findings(settings, settings) if finding.level == "warning"]
    assert any("idle-timeot" in text for text in found)
    assert any("pve1 is ambiguous" in text for text in found)


async def test_before_9_1_a_token_is_told_that_it_gets_no_consoles(make_lab: Any) -> None:
    lab: Lab = await make_lab(version="8.4.1")
    texts = [finding.text for finding in await findings(lab.settings())]
    assert any("`user` and `password`" in text for text in texts)


@pytest.mark.parametrize(
    ("told", "level", "word"),
    [
        ({}, "warning", "no channel"),
        ({"tls_listen": "0.0.0.0:8082", "tls_address": "manager.example:8082"}, "ok", "manager.example:8082"),
        ({"tls_listen": "127.0.0.1:8082"}, "warning", "their own machine"),
    ],
)
def test_flows_on_another_machine_need_a_port_of_the_channels(told: dict[str, str], level: str, word: str) -> None:
    runtime = RuntimeSettings(kind="proxmox", url="https://pve1:8006", token_id="a@pve!b", secret="c")
    settings = Settings.model_validate(
        {"state_dir": "/s", "sockets_dir": "/r", "channel": told, "runtimes": {"house": runtime}}
    )
    (found,) = channel(settings)
    assert (found.level, word in found.text, "house" in found.text) == (level, True, True)
    assert level == "ok" or "channel.tls" in found.mend


def test_where_all_flows_run_here_nobody_is_told_of_such_a_port() -> None:
    assert channel(Settings(state_dir=Path("/s"), sockets_dir=Path("/r"))) == []
