"""Containers on Proxmox VE that settings name by their number, on the emulator."""

from __future__ import annotations

from pathlib import Path

from flow_manager.runtimes.proxmox.claims import Claims
from flow_manager.runtimes.proxmox.provider import ProxmoxProvider
from flow_manager.settings.models import FlowSettings, LimitSettings
from tests.contract.harness_proxmox import INTERVAL, harness


async def test_one_that_settings_name_is_adopted_without_a_tag_and_no_other_is(tmp_path: Path) -> None:
    async with harness(tmp_path) as lab:
        wanted = lab.emulator.add_container(name="web", running=True)
        lab.emulator.add_container(name="other")
        theirs = lab.emulator.add_container(
            name="theirs", description="flow-manager:\nflow-manager.instance=another\nflow-manager:"
        )
        provider = ProxmoxProvider(
            lab.name,
            lab.settings,
            instance=lab.instance,
            limits=LimitSettings(),
            sockets_dir=tmp_path / "sockets",
            state_dir=tmp_path / "state",
            interval=INTERVAL,
            flows=[FlowSettings(vmid=vmid) for vmid in (wanted, theirs)],
        )
        await provider.open()
        try:
            (seen,) = await provider.list()
            assert (seen.adopted, seen.runtime_id, seen.state) == (True, str(wanted), "running")
            assert (await provider.stop(seen.id, timeout=1.0)).state == "stopped"
        finally:
            await provider.close()


def test_what_settings_name_is_not_written_down(tmp_path: Path) -> None:
    file = tmp_path / "claims.json"
    claims = Claims(file, frozenset({101}))
    claims.claim(102)
    assert [claims.names(vmid) for vmid in (101, 102, 103)] == [True, True, False]
    again = Claims(file)
    again.load()
    assert [again.names(vmid) for vmid in (101, 102)] == [False, True]
