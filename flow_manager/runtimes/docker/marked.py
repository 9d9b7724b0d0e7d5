"""What a command or terminal started inside a container, and how it is ended: no API call ends an exec, and closing its
connection hangs nothing up.

Every process of it bears a mark in its environment, whatever session it is in; one that was started with an empty environment
still is in the session. On this machine they are found in /proc and, when their cgroup says that they are this container's,
signalled by pidfd: neither a reused pid nor a process of another machine's number is hit. Elsewhere (a remote engine, a manager
in a container of its own) a shell inside does it, by the mark alone, with what the image has.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flow_manager.runtimes.inside import MARK
from flow_manager.runtimes.marked import Marked

PROC = Path("/proc")
# For /bin/sh inside: `$1` is the mark, `$2` is "hang-up" where that comes before KILL. Builtins, `grep` and `sleep` only, and it
# goes on without `sleep`; its own environment has no mark. It runs as the command's own user: the kernel shows an environment to
# nobody else in there. The mark is an argument, in which no shell looks for anything.
SCRIPT = """
find_marked() {
  marked=
  for folder in /proc/[0-9]*; do
    grep -aq -e "$1" "$folder/environ" 2>/dev/null && marked="$marked ${folder#/proc/}"
  done
  [ -n "$marked" ]
}
find_marked "$1" || exit 0
if [ "$2" = hang-up ]; then
  kill -HUP $marked 2>/dev/null; kill -CONT $marked 2>/dev/null
  for round in 1 2 3 4 5; do
    sleep 0.1 2>/dev/null || sleep 1
    find_marked "$1" || exit 0
  done
fi
for round in 1 2 3 4 5 6 7 8 9 10; do
  kill -KILL $marked 2>/dev/null
  find_marked "$1" || exit 0
  sleep 0.1 2>/dev/null || sleep 1
done
exit 1
"""

# `(pid, container)`: whether that process, by the engine's word of this container, is one that we see as such.
Seen = Callable[[int, str], bool]


def on_this_machine(pid: int, container: str) -> bool:
    """Its cgroup names the container."""
    try:
        return bool(container) and container in (PROC / str(pid) / "cgroup").read_text()
    except OSError:
        return False


def seen_here(container: str, mark: str, session: int | None, seen: Seen = on_this_machine) -> Marked:
    """All of this container that bear the mark or are in the session, and are seen from here."""
    return Marked(MARK, mark, session, lambda pid: seen(pid, container))


def ending_inside(mark: str, *, hang_up: bool) -> list[str]:
    """The command that ends them from inside; it exits with 0 when nothing is left."""
    return ["/bin/sh", "-c", SCRIPT, "sh", f"{MARK}={mark}", "hang-up" if hang_up else "kill"]
