"""What an inspect would say of a container that has just ended, from the engine's answer to a `wait`. Pure.

A round trip less, while the engine is still busy clearing up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.observe import dig, whole

# 128 and SIGKILL's number: the exit code also of what the kernel ended for want of memory.
KILLED = 137


def after_the_end(before: Observation, told: Any) -> Observation | None:
    """`before`: what was seen while it ran. None where only an inspect knows enough:

    With published ports: newer engines answer the wait before those are free again, and the inspect only then.
    Adopted: a restart policy of its maker's may have begun it anew. With a health check: its last word is the engine's.
    """
    code = whole(dig(told, "StatusCode"))
    if before.state != "running" or code is None or code == KILLED or dig(told, "Error"):
        return None
    if before.ports or before.adopted or before.health != "none":
        return None
    return replace(before, state="exited", exit_code=code, error=None, addresses=(), oom_killed=False)
