"""`[[flows]]`: what is refused, and which runtime each belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import SettingsRefused
from flow_manager.settings.declared import flows_of, misplaced
from flow_manager.settings.load import load

HOME = {"HOME": "/home/someone"}


def loaded(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load({}, HOME, path)


def test_all_of_it_can_be_said_in_a_file(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
        [[flows]]
        container = "shop_web_1"
        name = "web"
        hosts = ["shop.example"]
        port = 8080
        tenant = "blue"
        idle = { idle_timeout = "5m", stop_method = "pause", depends_on = [{ container = "db", condition = "healthy" }] }
        [[flows]]
        runtime = "lab"
        node = "pve1"
        vmid = 101
        """,
    )
    web, lxc = settings.flows
    assert (web.place, web.tenant, web.idle.idle_timeout, web.idle.depends_on[0].container) == (
        "shop_web_1",
        "blue",
        300,
        "db",
    )
    assert (lxc.place, lxc.idle.idle_timeout, lxc.name) == ("pve1/101", 0, None)
    assert flows_of(settings, "docker", "docker") == (web,)
    assert flows_of(settings, "lab", "docker") == (lxc,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[flows]]\nname = "web"', "give either container (docker) or vmid (proxmox)"),
        ('[[flows]]\ncontainer = "web"\nvmid = 101', "give either container (docker) or vmid (proxmox)"),
        ('[[flows]]\ncontainer = "web"\nnode = "pve1"', "node goes with vmid"),
        ('[[flows]]\ncontainer = "web"\nname = "Web"', "flows.0.name"),
        ('[[flows]]\ncontainer = "web"\nhosts = ["a b"]', "flows.0.hosts"),
        ('[[flows]]\ncontainer = "web"\nport = 0', "flows.0.port"),
        ('[[flows]]\ncontainer = "web"\ntenant = "Blue Team"', "flows.0.tenant"),
        ('[[flows]]\ncontainer = "web"\nidle = { idle_timout = 5 }', "idle_timout"),
        ('[[flows]]\ncontainer = "web"\nidle = { ready = { channel = true } }', "has no channel"),
        ('[[flows]]\ncontainer = "web"\n[[flows]]\ncontainer = "web"', "'web' stands there 2 times"),
        (
            '[[flows]]\ncontainer = "a"\nname = "web"\n[[flows]]\ncontainer = "b"\nname = "web"',
            "the name 'web' is given 2 times",
        ),
        (
            '[[flows]]\ncontainer = "a"\nhosts = ["x.y"]\n[[flows]]\ncontainer = "b"\nhosts = ["x.y"]',
            "the host 'x.y' is given 2 times",
        ),
    ],
)
def test_what_can_t_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsRefused) as refused:
        loaded(tmp_path, text)
    assert said in str(refused.value)


def test_a_runtime_that_is_not_there_or_can_t_find_it_is_told(tmp_path: Path) -> None:
    text = "\n".join(
        f"[[flows]]\n{line}"
        for line in (
            'container = "a"\nruntime = "nowhere"',
            'container = "b"\nruntime = "process"',
            'container = "c"\nruntime = "lab"',
            'container = "d"',
            "vmid = 101",
        )
    )
    kinds = {"docker": "docker", "process": "process", "lab": "proxmox"}
    lines = misplaced(loaded(tmp_path, text).flows, kinds, "docker")
    assert [line.split(":")[1].strip(" '") for line in lines] == ["a", "b", "c", "/101"]
    assert "no runtime 'nowhere': there are docker, lab, process" in lines[0]
    assert "kind process has no containers that others made" in lines[1]
    assert "finds a container by its vmid" in lines[2]
    assert "finds a container by its container" in lines[3]
