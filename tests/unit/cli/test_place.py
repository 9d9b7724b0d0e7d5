"""A place on Proxmox VE, as the command line takes it."""

from __future__ import annotations

import pytest
import typer

from flow_manager.cli.pairs import place


def test_keys_may_stand_together_or_apart() -> None:
    assert place(["node=pve1,vmid=101"]) == place(["node=pve1", "vmid=101"]) == {"node": "pve1", "vmid": 101}
    assert place(["clone=9000,full=no,ip=10.0.0.5/24"]) == {"clone": 9000, "full": False, "ip": "10.0.0.5/24"}


@pytest.mark.parametrize("text", ["", "node", "=x", "vmid=abc", "full=perhaps"])
def test_what_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        place([text])
