"""Proxmox VE: reached, logged in, with enough rights, and what owners wrote into their containers' notes."""

from __future__ import annotations

from collections import defaultdict

from flow_manager.cli.doctor.finding import Finding, ok, warning
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings

MEND = "docs/how-to/proxmox.md says what the lines may be"


def proxmox(settings: Settings) -> list[Finding]:
    """Of each configured runtime of that kind; a node that two of them have is named."""
    found: list[Finding] = []
    owners: dict[str, list[str]] = defaultdict(list)
    for name, runtime in settings.runtimes.items():
        if (runtime.kind or name) == "proxmox":
            findings, nodes = _one(f"runtime {name}", runtime)
            found += findings
            for node in nodes:
                owners[node].append(name)
    for node, names in owners.items():
        if len(names) > 1:
            text = f"the node name {node} is ambiguous: {' and '.join(names)} have it"
            found.append(warning("Proxmox VE", text, "one runtime a cluster; else each request must name its runtime"))
    return found


def _one(about: str, runtime: RuntimeSettings) -> tuple[list[Finding], tuple[str, ...]]:
    import asyncio

    from flow_manager.containers.labels import read_labels
    from flow_manager.runtimes.proxmox.diagnosis import diagnose

    diagnosis = asyncio.run(diagnose(runtime))
    found = [Finding(remark.level, about, remark.text, remark.mend) for remark in diagnosis.remarks]
    read = 0
    for vmid, (name, labels) in diagnosis.notes.items():
        if "flow-manager.id" in labels:
            continue  # one that a manager made
        read += 1
        found += [warning(about, f"container {vmid} ({name}): {line}", MEND) for line in read_labels(labels).unreadable]
    if read and all(finding.level != "warning" for finding in found):
        found.append(ok(about, f"{read} container(s) carry the tag, and all their lines can be read"))
    return found, diagnosis.nodes
