"""Whether the storages that new containers need are there, in use, and meant for it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flow_manager.runtimes.proxmox.client import PveClient
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.remark import Remark
from flow_manager.runtimes.proxmox.resources import text, whole
from flow_manager.settings.runtime import RuntimeSettings

# What a storage must be meant for (its `content`): containers' disks, and what containers are made of.
DISKS, TEMPLATES = "rootdir", "vztmpl"


async def storages(client: PveClient, settings: RuntimeSettings, nodes: Iterable[str]) -> list[Remark]:
    """Of these nodes, which are online and may have new containers."""
    found: list[Remark] = []
    templates = 0
    for node in nodes:
        try:
            told = await client.get(f"nodes/{node}/storage")
            rows = {text(row.get("storage")): row for row in told or () if isinstance(row, Mapping)}
            found += of_disks(node, settings.storage, rows)
            wrong, holding = of_templates(node, rows)
            found += wrong
            for name in holding:
                content = await client.get(f"nodes/{node}/storage/{name}/content", content=TEMPLATES)
                templates += len(content) if isinstance(content, list) else 0
        except CallFailed as failed:
            found.append(
                Remark("warning", f"the storages of {node} can't be seen: {failed.words}", "see the node itself")
            )
    if not templates and not found:
        mend = (
            "on a node: pveam update; pveam available --section system; pveam download local NAME; or pull an OCI image"
        )
        found.append(Remark("warning", "there is no template that a new container could be made of", mend))
    if not found:
        found.append(Remark("ok", f"the storage {settings.storage} takes disks, and there are {templates} template(s)"))
    return found


def of_disks(node: str, wanted: str, rows: Mapping[str, Mapping[str, Any]]) -> list[Remark]:
    """What is wrong with the configured storage on one node. Pure."""
    row = rows.get(wanted)
    if row is None:
        fit = sorted(name for name, other in rows.items() if DISKS in _content(other))
        there = f"; for disks there are: {', '.join(fit)}" if fit else ""
        mend = "mend the setting `storage`; or Datastore.Audit for the login; or pvesm set NAME --nodes … on a node"
        return [Remark("warning", f"{node} has no storage {wanted} that the login sees{there}", mend)]
    if (why := _unused(row)) is not None:
        return [Remark("warning", f"the storage {wanted} is not {why[0]} on {node}", why[1].format(name=wanted))]
    if DISKS not in _content(row):
        content = ",".join([*_content(row), DISKS])
        text_ = f"the storage {wanted} on {node} takes no disks of containers (its content lacks {DISKS})"
        return [Remark("warning", text_, f"on a node: pvesm set {wanted} --content {content}; or another `storage`")]
    return []


def of_templates(node: str, rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[Remark], list[str]]:
    """What is wrong, and the storages of one node that templates can be on. Pure."""
    meant = [name for name, row in rows.items() if TEMPLATES in _content(row)]
    usable = [name for name in meant if _unused(rows[name]) is None]
    if usable:
        return [], usable
    if meant:
        why = _unused(rows[meant[0]]) or ("active", "")
        return [
            Remark(
                "warning",
                f"the storage {meant[0]} with templates is not {why[0]} on {node}",
                why[1].format(name=meant[0]),
            )
        ], []
    mend = f"on a node: pvesm set local --content …,{TEMPLATES}; and Datastore.Audit on /storage/local for the login"
    return [Remark("warning", f"no storage of {node} that the login sees takes templates ({TEMPLATES})", mend)], []


def _content(row: Mapping[str, Any]) -> list[str]:
    return [part for part in text(row.get("content")).split(",") if part]


def _unused(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """What it is not, and how it becomes that; a server that says nothing of it means no harm."""
    if whole(row.get("enabled", 1)) == 0:
        return "enabled", "on a node: pvesm set {name} --disable 0"
    if whole(row.get("active", 1)) == 0:
        return "active", "on that node: pvesm status --storage {name} says why (not mounted, not reached?)"
    return None
