"""A lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import time

# A child between fork and exec still holds a copy of a descriptor that its parent has closed: some milliseconds.
TRIES = 10
PAUSE = 0.02


def take(descriptor: int) -> bool:
    """Lock an open file or folder for this process, until the descriptor is closed. False: somebody else holds it."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        return True
    return False
