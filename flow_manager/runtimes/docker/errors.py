"""What the engine and the libraries beneath say, as our own errors: one table, and nothing else decides.

The engine has no error codes, so its words are matched; they are those of moby 20.10 to 28 (daemon/errors.go,
daemon/start.go, libnetwork/portallocator) as measured, and a status that is known decides where the words are not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from aiodocker.exceptions import DockerError

from flow_manager import errors
from flow_manager.runtimes.failure_rows import MAX_MESSAGE, AboutCall, Row, decide

KIND = "docker"
# aiodocker's own status for "cannot connect".
NOT_CONNECTED = 900


@dataclass(frozen=True, slots=True)
class Subject(AboutCall):
    signal: str | None = None


def _no_logs(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.Unsupported(message, kind=KIND, capability="logs")


def _no_space(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.NoSpace("the engine's disk is full", kind=KIND, reason=message)


def _port_in_use(_: Subject, message: str) -> errors.FlowManagerError:
    # "Bind for 127.0.0.1:80 failed: port is…", "listen tcp4 127.0.0.1:80: bind: address already in use"
    found = re.search(r":([0-9]{1,5})(?: failed)?: (?:port is already|bind:)", message) or re.search(
        r"host port for (?:\[[^\]]*\]|[0-9.]+):([0-9]{1,5})", message
    )
    port = int(found[1]) if found else None
    where = f"port {port}" if port else "a published port"
    return errors.PortInUse(f"{where} of the host is taken", kind=KIND, port=port)


def _image_not_found(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.ImageNotFound(
        f"no image '{subject.image}'" if subject.image else message, kind=KIND, image=subject.image, reason=message
    )


def _name_conflict(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.NameConflict(f"the name '{subject.name}' is taken", kind=KIND, name=subject.name)


def _not_found(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerNotFound(subject.id, kind=KIND)


def _stopped(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerStopped(f"flow '{subject.id}' does not run", container_id=subject.id)


def _paused(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerStopped(f"flow '{subject.id}' is paused", container_id=subject.id, state="paused")


def _running(subject: Subject, message: str) -> errors.FlowManagerError:
    state = re.search(r"cannot remove a (\w+) container", message)
    return errors.ContainerRunning(
        f"flow '{subject.id}' runs", container_id=subject.id, state=state[1] if state else "running"
    )


def _conflict(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.Conflict(message, operation=subject.operation)


def _bad_signal(subject: Subject, _: str) -> errors.FlowManagerError:
    reason = f"the engine knows no signal {subject.signal}"
    return errors.InvalidRequest(reason, fields=[{"path": "signal", "reason": reason}])


def _start_failed(_: Subject, message: str) -> errors.FlowManagerError:
    # What a shell would say (POSIX, 2.8.2): 127 not found, 126 found but not to be run.
    missing = re.search(r"not found|no such file", message, re.IGNORECASE)
    refused = re.search(r"permission denied|exec format|is a directory", message, re.IGNORECASE)
    code = 127 if missing else 126 if refused else None
    return errors.StartFailed(f"it could not be started: {message}", exit_code=code, reason=message)


def _stop_failed(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.StopFailed(f"flow '{subject.id}' could not be ended", reason=message)


def _unavailable(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.RuntimeUnavailable(
        f"the Docker engine does not answer as it should: {message}", kind=KIND, reason=message
    )


def _refused(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.RuntimeRefused(f"the Docker engine refused: {message}", kind=KIND, reason=message)


SERVER_ERRORS = frozenset(range(500, 600))

TABLE: tuple[Row[Subject], ...] = (
    Row(r"no space left on device", _no_space),
    Row(r"port is already allocated|address already in use|ports are not available|failed to bind host port", _port_in_use),
    Row(r"container name .* is already in use", _name_conflict, frozenset({409})),
    Row(r"no such image|manifest( for \S+)?( not found| unknown)|pull access denied|repository \S+ not found", _image_not_found),
    Row(r"", _image_not_found, operations=frozenset({"pull"})),
    Row(r"invalid signal|unknown signal", _bad_signal),
    Row(r"logging driver does not support reading", _no_logs),
    Row(r"no such container", _not_found, frozenset({404})),
    Row(r"cannot remove a (running|paused|restarting) container", _running),
    Row(r"removal of container .* is already in progress", _conflict),
    Row(r"marked for removal", _not_found),
    Row(r"is paused", _paused, frozenset({409}), operations=frozenset({"exec"})),
    Row(r"is not paused|already paused|is paused|a paused container", _conflict),
    Row(r"is not running|not running", _stopped, frozenset({409, 500, 304})),
    Row(r"did not receive an exit event|cannot (stop|kill) container", _stop_failed),
    Row(r"executable file not found|OCI runtime|failed to create (shim )?task|exec format", _start_failed, operations=frozenset({"start"})),
    Row(r"", _unavailable, SERVER_ERRORS),
    Row(r"", _unavailable, frozenset({0, NOT_CONNECTED})),
    Row(r"", _refused),
)  # fmt: skip


def translate(exc: BaseException, subject: Subject = Subject()) -> errors.FlowManagerError:
    """Any failure of an engine call → the error that a caller may see. One of ours is handed back as it is."""
    if isinstance(exc, errors.FlowManagerError):
        return exc
    if isinstance(exc, DockerError):
        message = str(exc.message).strip()[:MAX_MESSAGE] or f"status {exc.status}"
        if exc.status == NOT_CONNECTED:
            # The library's own words name the host's paths, and speak of ssl where there is none.
            message = "no connection to the engine"
        return decide(TABLE, subject, exc.status, message)
    return _unavailable(subject, _words(exc))


def _words(exc: BaseException) -> str:
    """aiohttp errors, time-outs and aiodocker's bare AssertionError (no address to be found) have no words for people."""
    if isinstance(exc, TimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(exc, AssertionError):
        return "no engine address is configured and no socket was found"
    if isinstance(exc, aiohttp.ClientConnectorError):
        # Its own text speaks of ports and ssl, which a Unix socket has not.
        return (exc.os_error.strerror or type(exc.os_error).__name__)[:MAX_MESSAGE]
    if isinstance(exc, aiohttp.ClientError | OSError):
        return (str(exc) or type(exc).__name__)[:MAX_MESSAGE]
    return f"unreadable answer ({type(exc).__name__})"


# What may come out of an engine call: the libraries' own, and what a garbled answer makes of its reader.
RAW = (
    DockerError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    AssertionError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
)


@contextmanager
def translated(subject: Subject = Subject()) -> Iterator[None]:
    """Nothing of the libraries leaves this block."""
    try:
        yield
    except RAW as exc:
        raise translate(exc, subject) from exc


def repeatable(exc: BaseException) -> bool:
    """May be gone at the next try: no connection, or a 5xx that says nothing better. Not a time-out: that used its time."""
    if isinstance(exc, TimeoutError):
        return False
    return isinstance(exc, RAW) and isinstance(translate(exc), errors.RuntimeUnavailable)
