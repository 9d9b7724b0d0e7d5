"""From a FlowSpec to a process: what is refused, the environment, the folder, the spawn itself."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from flow_manager.errors import ImageNotFound, InvalidRequest, StartFailed, Unsupported
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.inside import TERMINAL_TYPE

KIND = "process"
IMAGE = "local"
# Exit codes of a shell for a command that is not there, and for one that can't be run.
NOT_FOUND = 127
NOT_RUNNABLE = 126
INHERITED = {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8"}
"""The only variables of the manager's own that a flow gets, and what it gets where the manager has none."""
# Enters the cgroup, then becomes the command: nothing of the flow ever runs outside its limits. The text is constant;
# folder and command are arguments, which no shell reads.
ENTER_CGROUP = 'echo 0 > "$0" && exec "$@"'
# As above, but takes the terminal first: the first one that a session's leader opens is its controlling one (tty_ioctl(4)).
# The second argument is the cgroup's file, or empty. (`preexec_fn` with TIOCSCTTY fails on uvloop.)
TAKE_TERMINAL = ': <>"$0" || exit 126; [ -z "$1" ] || echo 0 >"$1" || exit 126; shift; exec "$@"'


def refuse_what_it_cannot(spec: FlowSpec, *, limits: bool) -> None:
    """:raises ImageNotFound, InvalidRequest, Unsupported: a flow like this can't be a local process."""
    if spec.image != IMAGE:
        reason = f"the runtime 'process' has only the image '{IMAGE}'"
        raise ImageNotFound(f"no image '{spec.image}': {reason}", kind=KIND, image=spec.image, reason=reason)
    if not spec.command or not spec.command[0]:
        reason = "required on the runtime 'process'"
        raise InvalidRequest(f"command: {reason}", fields=[{"path": "command", "reason": reason}])
    for wanted, capability, words in (
        (spec.mounts, "volumes", "volumes"),
        (spec.networks, "networks", "networks of their own"),
    ):
        if wanted:
            raise Unsupported(f"local processes can't have {words}", kind=KIND, capability=capability)
    if (spec.memory, spec.cpus, spec.pids) != (None, None, None) and not limits:
        raise Unsupported(
            "limits of local processes need a delegated cgroup v2 with the controllers memory, cpu and pids",
            kind=KIND,
            capability="limits",
        )


def environment(spec: FlowSpec, ports: Mapping[str, int], manager: Mapping[str, str]) -> dict[str, str]:
    """Exactly what the process sees: PATH, HOME, LANG (with a terminal TERM), the flow's own, and what the manager tells it.

    PORT is the port chosen for the lowest port binding; with several, PORT_<container port> (and _UDP) names each.
    """
    variables = {name: manager.get(name) or default for name, default in INHERITED.items()}
    if spec.tty:
        variables["TERM"] = TERMINAL_TYPE
    variables.update(spec.environment)
    if spec.ports:
        lowest = min(spec.ports, key=lambda port: (port.container_port, port.protocol))
        variables["PORT"] = str(ports[f"{lowest.container_port}/{lowest.protocol}"])
    if len(spec.ports) > 1:
        for port in spec.ports:
            suffix = "" if port.protocol == "tcp" else f"_{port.protocol.upper()}"
            variables[f"PORT_{port.container_port}{suffix}"] = str(ports[f"{port.container_port}/{port.protocol}"])
    variables["FLOW_ID"] = spec.id
    if spec.channel_folder is not None:
        variables["FLOW_SOCKET"] = str(spec.channel_folder / f"{spec.id}.sock")
    if spec.code_folder is not None:
        variables["FLOW_CODE"] = str(spec.code_folder)
    return variables


def spawn(
    command: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    folder: Path,
    output: int,
    cgroup_procs: Path | None,
    errors: int | None = None,
    terminal: bool = False,
) -> int:
    """Start it in a session and process group of its own; its pid. Blocks for some milliseconds.

    `output` is its standard output, and its standard error, too, unless `errors` is given. `terminal`: `output` is
    the side of a PTY that programs see; it becomes its controlling terminal and its standard input, too.

    :raises StartFailed: with the shell's code for the reason: 127 not there, 126 not runnable. Without one the command is not
        at fault: the machine has no room for a process.
    """
    if not folder.is_dir():
        raise _failed(f"the working directory {folder} does not exist", NOT_RUNNABLE)
    arguments = list(command)
    if terminal or cgroup_procs is not None:
        # Found here, since the shell could only report it as an exit code of the flow.
        arguments[0] = _resolve(command[0], environment, folder)
    if terminal:
        arguments = ["/bin/sh", "-c", TAKE_TERMINAL, os.ttyname(output), str(cgroup_procs or ""), *arguments]
    elif cgroup_procs is not None:
        arguments = ["/bin/sh", "-c", ENTER_CGROUP, str(cgroup_procs), *arguments]
    try:
        process = subprocess.Popen(  # noqa: S603 - running what the flow says is the purpose; no shell reads it
            arguments,
            env=dict(environment),
            cwd=folder,
            stdin=output if terminal else subprocess.DEVNULL,
            stdout=output,
            stderr=output if errors is None else errors,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as exc:
        raise _failed(*_reason(command[0], exc)) from None
    # From here on the process is watched and reaped by its pidfd alone: a Popen that still thought it alive would warn
    # when collected, and might reap it from under us. (asyncio's own subprocesses kill theirs when the loop closes.)
    process.returncode = 0
    return process.pid


def _resolve(name: str, environment: Mapping[str, str], folder: Path) -> str:
    candidates = (
        [folder / name] if "/" in name else [Path(part) / name for part in environment["PATH"].split(":") if part]
    )
    existing = [path for path in candidates if path.is_file()]
    for path in existing:
        if os.access(path, os.X_OK):
            return str(path)
    raise _failed(*_reason(name, OSError(errno.EACCES if existing else errno.ENOENT, "")))


def _reason(name: str, exc: OSError) -> tuple[str, int | None]:
    shown = name[:200]
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"the command {shown!r} was not found", NOT_FOUND
        case errno.EACCES | errno.EPERM | errno.EISDIR:
            return f"the command {shown!r} may not be executed", NOT_RUNNABLE
        case errno.ENOEXEC:
            return f"the command {shown!r} is no program (a script needs a line '#!')", NOT_RUNNABLE
        case errno.E2BIG:
            return f"the command {shown!r} has too long an argument list", NOT_RUNNABLE
        case errno.EAGAIN | errno.ENOMEM | errno.EMFILE | errno.ENFILE:
            return f"the command {shown!r} could not be started: {os.strerror(exc.errno)}", None
        case _:
            return f"the command {shown!r} could not be started: {os.strerror(exc.errno or 0)}", NOT_RUNNABLE


def _failed(reason: str, code: int | None) -> StartFailed:
    return StartFailed(reason, reason=reason, exit_code=code)
