"""What Linux says of processes: `/proc/<pid>/stat` (proc(5)) and nothing that must be asked of another program."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process at one moment. `start_ticks`, since boot, tells it from a later one with the same pid."""

    pid: int
    state: str
    group: int
    session: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    memory: int

    @property
    def alive(self) -> bool:
        """False for a zombie, which only waits for its parent to ask how it ended."""
        return self.state not in "ZX"

    @property
    def frozen(self) -> bool:
        """Stopped by a signal (SIGSTOP)."""
        return self.state == "T"


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        state=fields[0].decode(),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        memory=int(fields[21]) * PAGE_SIZE,
    )


def boot_id() -> str:
    """Changes at each boot: pids and start ticks of an earlier boot mean nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def groups() -> dict[int, list[ProcessStat]]:
    """Living processes by process group; one pass over all of them, some 10 µs each."""
    return _living_by(lambda stat: stat.group)


def sessions() -> dict[int, list[ProcessStat]]:
    """As `groups`, by session. One has a single group, unless a shell in it gives each job a group of its own."""
    return _living_by(lambda stat: stat.session)


def _living_by(number: Callable[[ProcessStat], int]) -> dict[int, list[ProcessStat]]:
    found: dict[int, list[ProcessStat]] = defaultdict(list)
    for pid in pids():
        stat = read_stat(pid)
        if stat is not None and stat.alive:
            found[number(stat)].append(stat)
    return dict(found)


def environment_holds(pid: int, name: str, value: str) -> bool:
    """True when the process was started with that variable; False also where we may not look."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{name}={value}".encode() in environment.split(b"\0")


def environment_of(pid: int) -> dict[str, str]:
    """What the process was started with; empty where we may not look."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.decode(errors="replace").partition("=") for item in environment.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


def find_session_leader(name: str, value: str, *, without: str | None = None) -> int | None:
    """The living session leader with that variable in its environment, and not the one called `without`."""
    for pid in pids():
        stat = read_stat(pid)
        if not (stat and stat.alive and stat.session == pid and environment_holds(pid, name, value)):
            continue
        if without is None or without not in environment_of(pid):
            return pid
    return None


def kill_marked(mark: str, name: str, values: Collection[str]) -> int:
    """KILL every living process that was started with a variable `mark`, and with `name` as one of `values`."""
    killed = 0
    for pid in pids():
        environment = environment_of(pid)
        if mark in environment and environment.get(name) in values:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except (ProcessLookupError, PermissionError):
                continue
    return killed


def pids() -> list[int]:
    """Of all processes, zombies too."""
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]  # noqa: PTH208 - a list of Paths costs thrice
