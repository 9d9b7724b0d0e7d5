"""A place in memory for what tests write: SQLite and the Docker engine flush every step to the disk, and most of a test's
time would be spent waiting for that."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

PLACE = Path("/dev/shm")
PREFIX = "fmt-"
# All tests together take some hundred MB, an engine with its images as much again; there must be room for surprises.
ROOM = 4 * 1024**3


def available(place: Path = PLACE) -> bool:
    """Whether programs can be run from there, and there is room. (A container's is often 64 MB small.)"""
    try:
        there = os.statvfs(place)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return (
        os.access(place, os.W_OK)
        and not there.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
        and min(there.f_bavail * there.f_frsize, free) >= ROOM
    )


def folder(place: Path = PLACE) -> Path:
    """A folder that is gone when this process ends; those of killed processes are removed first."""
    for left in place.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    made.chmod(0o1777)  # as /tmp: flows of other users go through it
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
