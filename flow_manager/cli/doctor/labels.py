"""The labels of containers that others made: what of them can't be read, and which containers nobody will adopt."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from flow_manager.cli.doctor.finding import Finding, ok, warning
from flow_manager.cli.engine import Engine, EngineSaid

ABOUT = "labels"
ENABLE = "flow-manager.enable"
HOSTS = "flow-manager.hosts"
MEND = "docs/how-to/adopt.md lists the labels; make the container anew afterwards"


def labels(engine: Engine) -> list[Finding]:
    """Of all containers with the label `flow-manager.enable`, whatever it says."""
    filters = quote(json.dumps({"label": [ENABLE]}))
    try:
        listed = engine.get(f"/containers/json?all=1&filters={filters}")
    except (OSError, ValueError, EngineSaid) as exc:
        return [warning(ABOUT, f"containers can't be listed: {exc}", "see the findings on Docker")]
    return judged(listed if isinstance(listed, list) else [])


def judged(listed: list[Any]) -> list[Finding]:
    """Pure: the engine's list entries → findings."""
    from flow_manager.containers.labels import read_labels

    found: list[Finding] = []
    adopted = 0
    claims: dict[str, list[str]] = {}
    for entry in listed:
        name = next(iter(entry.get("Names") or ["?"])).lstrip("/")
        given = {str(key): str(value) for key, value in (entry.get("Labels") or {}).items()}
        if "flow-manager.id" in given:
            for host in given.get(HOSTS, "").split(","):
                claims.setdefault(host.strip(), []).append(name)
            continue  # a flow that a manager made
        enabled = given.get(ENABLE, "")
        if enabled == "false":
            continue
        if enabled != "true":
            found.append(
                warning(ABOUT, f"{name}: {ENABLE}={enabled} is neither true nor false: it is not managed", MEND)
            )
            continue
        adopted += 1
        wishes = read_labels(given)
        found += [warning(ABOUT, f"{name}: {label}", MEND) for label in wishes.unreadable]
        for host in dict.fromkeys(wishes.hosts):
            claims.setdefault(host, []).append(name)
    found += [
        warning(ABOUT, f"{' and '.join(names)} claim the host {host}: the first that was found is served by it", MEND)
        for host, names in claims.items()
        if len(names) > 1 and host
    ]
    if adopted and not found:
        found.append(
            ok(ABOUT, f"{adopted} container(s) that others made ask to be managed, and all their labels can be read")
        )
    return found
