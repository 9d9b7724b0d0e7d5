"""Limits through a delegated cgroup v2, the only way to bound a process tree's memory, cpu and number.

No rlimits: RLIMIT_NPROC counts per user, RLIMIT_AS breaks Node, the JVM and Go, and none bounds a cpu share. File names
and formats: the kernel's Documentation/admin-guide/cgroup-v2.rst. A folder is delegated when it is writable, has the
controllers memory, cpu and pids, and holds no process itself ("no internal processes").
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "cpu", "pids")
CPU_PERIOD_US = 100_000
MOUNT_TABLE = Path("/proc/self/mountinfo")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Limits:
    memory: int | None
    cpus: float | None
    pids: int | None

    @property
    def any(self) -> bool:
        return any(limit is not None for limit in (self.memory, self.cpus, self.pids))


class DelegatedCgroup:
    """A folder below which each flow with limits gets one of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def usable(cls, root: Path) -> DelegatedCgroup | None:
        """None when `root` can't carry limits: no cgroup v2, not writable, controllers missing."""
        try:
            controllers = (root / "cgroup.controllers").read_text().split()
            if not set(CONTROLLERS) <= set(controllers) or not os.access(root, os.W_OK):
                return None
            enabled = (root / "cgroup.subtree_control").read_text().split()
            missing = [name for name in CONTROLLERS if name not in enabled]
            if missing:
                _write(root / "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
        except OSError:  # EBUSY: processes live in it
            return None
        return cls(root)

    def make(self, flow_id: str, limits: Limits) -> FlowCgroup:
        """A new folder with these limits. :raises OSError: nothing is left then."""
        group = FlowCgroup(self.root / f"flow-{flow_id}")
        group.path.mkdir(exist_ok=True)
        try:
            if limits.memory is not None:
                _write(group.path / "memory.max", str(limits.memory))
                # Without this the limit only moves the excess to swap.
                if (group.path / "memory.swap.max").exists():
                    _write(group.path / "memory.swap.max", "0")
            if limits.cpus is not None:
                # The kernel takes no less than 1 ms of cpu a period.
                _write(group.path / "cpu.max", f"{max(1000, round(limits.cpus * CPU_PERIOD_US))} {CPU_PERIOD_US}")
            if limits.pids is not None:
                _write(group.path / "pids.max", str(limits.pids))
        except OSError:
            group.remove()
            raise
        return group

    def of(self, flow_id: str) -> FlowCgroup | None:
        path = self.root / f"flow-{flow_id}"
        return FlowCgroup(path) if path.is_dir() else None


class FlowCgroup:
    """One flow's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def procs(self) -> Path:
        """Writing `0` here moves the writer in."""
        return self.path / "cgroup.procs"

    def memory(self) -> int | None:
        return _number(self.path / "memory.current")

    def pids(self) -> int | None:
        return _number(self.path / "pids.current")

    def oom_kills(self) -> int:
        try:
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            return int(events.get("oom_kill", 0))
        except (OSError, ValueError):
            return 0

    def kill(self) -> None:
        """End everything in it, also what left the session (cgroup.kill: Linux 5.14)."""
        try:
            _write(self.path / "cgroup.kill", "1")
        except OSError:
            pass  # an older kernel: the process group was killed, which is all that can be done

    def remove(self) -> None:
        """Refused by the kernel while a process lives in it: tried again with the flow's next end or removal."""
        try:
            self.path.rmdir()
        except OSError:
            pass


def find_delegated() -> DelegatedCgroup | None:
    """The cgroup that systemd delegated to this service: a unit with `Delegate=yes` and `DelegateSubgroup=manager`.

    systemd marks it with the extended attribute `user.delegate` (or `trusted.delegate`); without that mark a folder that
    happens to be writable, as all are for root, belongs to somebody else.
    """
    try:
        own = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
        mount = next(_mount_point(line) for line in MOUNT_TABLE.read_text().splitlines() if " - cgroup2 " in line)
    except (OSError, StopIteration):
        return None
    here = Path(mount) / own.lstrip("/")
    for folder in (here, here.parent):
        if _is_delegated(folder) and (found := DelegatedCgroup.usable(folder)):
            return found
    return None


def _is_delegated(folder: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _mount_point(line: str) -> str:
    return line.split()[4]


def _write(path: Path, text: str) -> None:
    # Never create: on something that is no cgroup the write must fail.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
