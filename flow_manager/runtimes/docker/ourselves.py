"""Is this manager itself a container of the engine that it drives? Then it joins its flows' networks, to reach them.

A bridge network is reached from the host and from the containers on it, and from nowhere else; a port that is published on
the host's loopback isn't there in a container. So without this a contained manager could start its flows, but not serve them.
"""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# The engine mounts these three files of its own over the container's (moby, container/container_unix.go, NetworkMounts).
_OWN = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) /etc/(?:hostname|hosts|resolv\.conf) ")


def own_container(mounts: Path = MOUNTS) -> str | None:
    """The id of the container that this process runs in; None on a host, or where the system doesn't tell."""
    try:
        found = _OWN.search(mounts.read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
