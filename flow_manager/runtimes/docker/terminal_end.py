"""Ending what runs on a terminal inside a container: no API call ends an exec, and closing its connection hangs nothing up.

Every process of a terminal bears a mark in its environment, whatever session it is in; one that was started with an empty
environment still is in the session. On this machine they are found in /proc and, when their cgroup says that they are this
container's, signalled by pidfd; elsewhere a shell inside does it, by the mark alone.
"""

from __future__ import annotations

from pathlib import Path

from flow_manager.runtimes.marked import Marked

PROC = Path("/proc")
# For /bin/sh inside. `$1` is the mark. Builtins, `grep` and `sleep` only; its own environment has no mark.
SCRIPT = """
find_marked() {
  marked=
  for folder in /proc/[0-9]*; do
    grep -aq -e "$1" "$folder/environ" 2>/dev/null && marked="$marked ${folder#/proc/}"
  done
  [ -n "$marked" ]
}
find_marked "$1" || exit 0
kill -HUP $marked 2>/dev/null; kill -CONT $marked 2>/dev/null
for round in 1 2 3 4 5; do
  sleep 0.1 2>/dev/null || sleep 1
  find_marked "$1" || exit 0
done
for round in 1 2 3 4 5 6 7 8 9 10; do
  kill -KILL $marked 2>/dev/null
  find_marked "$1" || exit 0
  sleep 0.1 2>/dev/null || sleep 1
done
exit 1
"""


def on_this_machine(pid: int, container: str) -> bool:
    """Whether that process, by the engine's word of this container, is one that we see as such: its cgroup names it."""
    try:
        return container in (PROC / str(pid) / "cgroup").read_text()
    except OSError:
        return False


async def end_here(container: str, name: str, value: str, session: int | None) -> bool:
    """Hang up, then kill, all of this container that bear the mark or are in the session. True: nothing is left."""
    return await Marked(name, value, session, lambda pid: on_this_machine(pid, container)).end()
