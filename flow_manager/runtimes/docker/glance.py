"""Does the engine's list entry of a container agree with what an inspect said earlier? Pure.

A list of a thousand containers is one call of some milliseconds; a thousand inspects are two seconds of the engine's time.
"""

from __future__ import annotations

import re
from typing import Any

from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.observe import addresses_of, dig, text, whole

# The engine's own words (moby, container/state.go): "Up 3 minutes (health: starting)", "Exited (137) 2 hours ago".
_HEALTH = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)")
_EXITED = re.compile(r"Exited \((-?[0-9]+)\)")


def agrees(entry: Any, seen: Observation) -> bool:
    """False whenever an inspect might say something new that matters: state, health, exit code, addresses or ports."""
    status = text(dig(entry, "Status"))
    health = _HEALTH.search(status)
    exited = _EXITED.match(status)
    return (
        text(dig(entry, "Id")) == seen.runtime_id
        and text(dig(entry, "State")) == seen.state
        and (seen.state != "running" or (health[1] if health else "none") == seen.health)
        and (exited is None or int(exited[1]) == seen.exit_code)
        and addresses_of(entry) == seen.addresses
        and _agree_on_ports(dig(entry, "Ports"), seen)
    )


def _agree_on_ports(listed: Any, seen: Observation) -> bool:
    """With one binding for IPv4 and one for IPv6 the list's order is not the inspect's: any of them will do."""
    found: dict[str, set[int]] = {}
    for port in listed if isinstance(listed, list) else ():
        public = whole(dig(port, "PublicPort"))
        if public:
            found.setdefault(f"{dig(port, 'PrivatePort')}/{dig(port, 'Type')}", set()).add(public)
    return found.keys() == seen.ports.keys() and all(number in found[key] for key, number in seen.ports.items())
