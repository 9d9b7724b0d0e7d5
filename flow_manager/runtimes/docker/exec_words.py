"""Why a command did not begin, from the engine's words: as a shell would tell it, or as a failure of the exec itself. Pure.

The engine tells it in the output's place (`OCI runtime exec failed: …` with pid 0) or as the answer's error, and its exit
code says little: 20.10 gives 126 for a command that is not there. The words are those of runc 1.0 and 1.1 (libcontainer:
`init_linux.go`, `standard_init_linux.go`), crun 1.x and moby 20.10 to 28, as measured or as in their sources.
"""

from __future__ import annotations

import re

from flow_manager.errors import ExecFailed
from flow_manager.runtimes.docker.errors import KIND
from flow_manager.runtimes.failure_rows import MAX_MESSAGE

NOT_FOUND, NOT_RUNNABLE = 127, 126

# The folder or the user, before the command was even looked for.
_SURROUNDINGS = re.compile(
    r"chdir to cwd|chdir:|\bcwd\b|unable to find user|no matching entries in (passwd|group)|unable to find group", re.I
)
_NOT_FOUND = re.compile(r"executable file\b.*\bnot found|no such file or directory|command that was not found", re.I)
_NOT_RUNNABLE = re.compile(
    r"permission denied|is a directory|not a directory|exec format error|argument list too long"
    r"|operation not permitted|text file busy",
    re.I,
)
# runc has become the command's process by the time that the kernel refuses: told on stderr, with code 1 or 255.
_LATE = re.compile(
    r"(?:exec (?P<path>\S+): |[\w./:-]*standard_init_linux\.go:\d+: exec user process caused[^:]*: )(?P<why>[^\n]+)\n?\Z"
)
_LATE_CODES = frozenset({1, 255})


def not_begun(words: str, name: str) -> tuple[int, str]:
    """(exit code, what a shell would write) for a command that did not begin.

    :raises ExecFailed: it is not the command that is at fault.
    """
    told = " ".join(words.split())[:MAX_MESSAGE]
    if not _SURROUNDINGS.search(told):
        if _NOT_FOUND.search(told):
            return NOT_FOUND, f"{name}: not found\n"
        if found := _NOT_RUNNABLE.search(told):
            return NOT_RUNNABLE, f"{name}: {found[0].lower()}\n"
    raise ExecFailed(f"the command could not be started: {told}", kind=KIND, reason=told)


def refused_by_the_kernel(code: int, stdout: bytes, stderr: bytes, name: str) -> tuple[int, str] | None:
    """As above, for the refusal that comes as the output of a process that had begun; None where it is no such thing."""
    if code not in _LATE_CODES or stdout or len(stderr) > MAX_MESSAGE:
        return None
    found = _LATE.fullmatch(stderr.decode(errors="replace"))
    if found is None or (found["path"] and not found["path"].endswith(name.rsplit("/", 1)[-1])):
        return None
    if _NOT_FOUND.search(found["why"]):  # the interpreter in its first line is not there
        return NOT_FOUND, f"{name}: not found\n"
    if why := _NOT_RUNNABLE.search(found["why"]):
        return NOT_RUNNABLE, f"{name}: {why[0].lower()}\n"
    return None
