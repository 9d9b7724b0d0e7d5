"""What the server says, as our own errors: one table, and nothing else decides.

It has no error codes and no 404: nearly everything is 500 with a sentence, and most failures come only from the task that
a 200 had promised. So the words are matched; they are those of pve-container 6.1 (PVE 9.2), pve-storage and pve-access-control.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flow_manager import errors
from flow_manager.runtimes.failure_rows import MAX_MESSAGE, AboutCall, Row, decide
from flow_manager.runtimes.proxmox.client import KIND
from flow_manager.runtimes.proxmox.failure import CallFailed

_PERMISSION = re.compile(r"Permission check failed \((?P<path>/[^,)]*), (?P<privilege>[^)]+)\)")


@dataclass(frozen=True, slots=True)
class Subject(AboutCall):
    node: str | None = None


def _not_found(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerNotFound(subject.id, kind=KIND)


def _name_conflict(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.NameConflict(f"the server refused: {message}", kind=KIND, name=subject.name)


def _no_space(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.NoSpace("the server's storage is full", kind=KIND, reason=message)


def _image_not_found(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.ImageNotFound(
        f"no template '{subject.image}'" if subject.image else message, kind=KIND, image=subject.image, reason=message
    )


def _locked(subject: Subject, message: str) -> errors.FlowManagerError:
    found = re.search(r"is locked \((\S+)\)", message)
    lock = found[1] if found else "another task"
    return errors.Conflict(f"the container is locked ({lock})", operation=lock, reason=message)


def _forbidden(_: Subject, message: str) -> errors.FlowManagerError:
    found = _PERMISSION.search(message)
    if found is None:
        return errors.RuntimeRefused(f"the login may not do that: {message}", kind=KIND, reason=message)
    return errors.RuntimeRefused(
        f"the login lacks the privilege {found['privilege']} on {found['path']}",
        kind=KIND,
        privilege=found["privilege"],
        path=found["path"],
        reason=message,
    )


def _login(_: Subject, message: str) -> errors.FlowManagerError:
    reason = f"it does not accept the login: {message}"
    return errors.RuntimeUnavailable(f"the Proxmox VE server can't be used: {reason}", kind=KIND, reason=reason)


def _no_node(subject: Subject, message: str) -> errors.FlowManagerError:
    reason = f"there is no node '{subject.node}'" if subject.node else message
    return errors.InvalidRequest(f"proxmox.node: {reason}", fields=[{"path": "proxmox.node", "reason": reason}])


def _stopped(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerStopped(f"flow '{subject.id}' does not run", container_id=subject.id)


def _running(subject: Subject, _: str) -> errors.FlowManagerError:
    return errors.ContainerRunning(f"flow '{subject.id}' runs", container_id=subject.id, state="running")


def _start_failed(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.StartFailed(f"it could not be started: {message}", reason=message)


def _stop_failed(subject: Subject, message: str) -> errors.FlowManagerError:
    return errors.StopFailed(f"flow '{subject.id}' could not be ended: {message}", reason=message)


def _unavailable(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.RuntimeUnavailable(
        f"the Proxmox VE server does not answer as it should: {message}", kind=KIND, reason=message
    )


def _refused(_: Subject, message: str) -> errors.FlowManagerError:
    return errors.RuntimeRefused(f"the Proxmox VE server refused: {message}", kind=KIND, reason=message)


_START = frozenset({"start", "unpause"})
_STOP = frozenset({"stop", "kill"})
_CREATE = frozenset({"create"})
_WAY = frozenset({0, 502, 503, 504, *range(595, 600)})

TABLE: tuple[Row[Subject], ...] = (
    Row(r"", _login, frozenset({401})),
    Row(r"", _forbidden, frozenset({403})),
    Row(r"Permission check failed \(/", _forbidden),
    Row(r"no space left on device|insufficient free space|out of space|not enough free space|disk quota exceeded", _no_space),
    Row(r"(volume|template) .{0,200} does not exist|unable to (find|parse).{0,80}(template|volume)|no such (volume|template)|can't find.{0,40}archive", _image_not_found, operations=_CREATE),
    Row(r"(CT|VM) \d+ already exists", _name_conflict, operations=_CREATE),
    Row(r"Configuration file '[^']*' does not exist|unable to find configuration file for (CT|VM)", _not_found),
    Row(r"no such cluster node|hostname lookup '[^']*' failed|node '[^']*' does not exist", _no_node),
    Row(r"is locked \(|got timeout$|can't lock file", _locked),
    Row(r"container is running", _running),
    Row(r"(CT|VM) \d+ not running", _stopped),
    Row(r"", _unavailable, _WAY),
    Row(r"", _start_failed, operations=_START),
    Row(r"", _stop_failed, operations=_STOP),
    Row(r"", _refused),
)  # fmt: skip


def translate(failed: CallFailed, subject: Subject = Subject()) -> errors.FlowManagerError:
    """A failed call → the error that a caller may see."""
    words = failed.words
    if failed.fields:
        words = f"{words} {'; '.join(f'{name}: {why}' for name, why in failed.fields.items())}"
    message = " ".join(words.split())[:MAX_MESSAGE]
    return decide(TABLE, subject, failed.status, message)


def task_failure(words: str, subject: Subject) -> errors.FlowManagerError:
    """A task that ended with other words than OK."""
    return translate(CallFailed(500, words), subject)


@contextmanager
def translated(subject: Subject = Subject()) -> Iterator[None]:
    try:
        yield
    except CallFailed as failed:
        raise translate(failed, subject) from None
