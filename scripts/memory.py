"""A place in memory for what tests write: SQLite and the Docker engine flush every step to the disk, and most of a test's
time would be spent waiting for that."""

from __future__ import annotations

import atexit
import os
import subprocess
from pathlib import Path

SHARED = Path("/dev/shm")
# Short, for a socket's path has 107 bytes; and not below /dev, which no flow is given anything of.
TEMPORARY = Path("/tmp")
PREFIX = "fmt"
# All tests together take some hundred MB, an engine with its images as much again; there must be room for surprises.
ROOM = 4 * 1024**3


def room() -> bool:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 >= ROOM for line in lines)


def shared() -> Path | None:
    """The machine's own place, for an engine; None where there is no room. (A container's is often 64 MB small.)"""
    try:
        there = os.statvfs(SHARED)
    except OSError:
        return None
    useless = there.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) or not os.access(SHARED, os.W_OK)
    return None if useless or there.f_bavail * there.f_frsize < ROOM or not room() else SHARED


def folder(place: Path = TEMPORARY) -> Path | None:
    """A folder in memory that is gone when this process ends; those of killed processes are removed first.

    None where there is no room, or for somebody who may not mount it: it takes root.
    """
    for left in place.glob(f"{PREFIX}[0-9]*"):
        if not Path("/proc", left.name.removeprefix(PREFIX)).exists():
            _remove(left)
    made = place / f"{PREFIX}{os.getpid()}"
    if os.geteuid() != 0 or not room():
        return None
    try:
        made.mkdir()
        options = f"size={ROOM},mode=1777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", made], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        _remove(made)
        return None
    atexit.register(_remove, made)
    return made


def _remove(made: Path) -> None:
    try:
        # Lazily: what is still open there goes when it is closed.
        subprocess.run(["umount", "--lazy", made], capture_output=True, check=False)
        made.rmdir()
    except OSError:
        pass
