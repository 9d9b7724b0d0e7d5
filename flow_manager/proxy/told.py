"""What a failure is called to whom: operators read the runtime's own words, strangers ours.

An engine's message names sockets, host paths, container ids and addresses. Words for strangers are therefore made of the
error's code and of details that we set ourselves, never cut out of a message.
"""

from __future__ import annotations

from typing import Protocol

from flow_manager.contract.models import FlowState
from flow_manager.contract.wake import WakeEvent
from flow_manager.errors import (
    Conflict,
    ContainerStopped,
    DependencyFailed,
    FlowManagerError,
    NotAllowed,
    ShuttingDown,
    StartFailed,
    WakeTimeout,
)

UNKNOWN = "it could not be woken"
_BY_CODE = {
    "wake_timeout": "it was not ready in time",
    "start_failed": "it could not be started",
    "dependency_failed": "a flow that it needs did not wake",
    "container_not_found": "there is no such flow any more",
    "runtime_unavailable": "what it runs on can't be reached at the moment",
    "image_not_found": "its image is not there",
    "port_in_use": "a port that it needs is taken",
    "no_space": "there is no room left where it runs",
    "disk_full": "there is no room left where it runs",
    "container_removed": "it was deleted",
}
# Reasons that the watcher itself gives (`idle.hearing`, `idle.liveness`); any other is the runtime's.
_BY_REASON = {
    "exit": "its program ended",
    "oom": "it ran out of memory",
    "unhealthy": "its health check fails",
    "liveness": "it doesn't answer any more",
}
# Their messages are written here, about the flow and what is wanted of it alone.
_OUR_WORDS = (Conflict, ContainerStopped, NotAllowed, ShuttingDown)


class FailedFlow(Protocol):
    """A Watcher is one."""

    @property
    def state(self) -> FlowState: ...
    @property
    def error(self) -> str | None: ...
    @property
    def failure(self) -> FlowManagerError | None: ...


def words(error: FlowManagerError | None) -> str:
    """For strangers: why a flow is not there, without a word of the runtime's."""
    if error is None:
        return UNKNOWN
    if isinstance(error, _OUR_WORDS):
        return error.message
    details, plain = error.details, _BY_CODE.get(error.code, UNKNOWN)
    if isinstance(error, WakeTimeout) and "waited_for" in details and "timeout" in details:
        return f"not ready within {details['timeout']:g} s, waiting for {details['waited_for']}"
    if isinstance(error, DependencyFailed) and "dependency" in details:
        plain = f"a flow that it needs, {details['dependency']}, did not wake"
    elif isinstance(error, StartFailed):
        plain = _BY_REASON.get(str(details.get("reason")), plain)
    code = details.get("exit_code")
    return f"{plain} (exit code {code})" if isinstance(code, int) else plain


def failure_of(flow: FailedFlow, *, frank: bool) -> str | None:
    """Why it is in error; None while it isn't."""
    if flow.error is None or frank:
        return flow.error
    return words(flow.failure)


def told_event(event: WakeEvent, flow: FailedFlow, *, frank: bool) -> WakeEvent:
    """A step of the wake as it may be told."""
    if frank or event.error is None:
        return event
    failure = flow.failure
    known = failure is not None and failure.code == event.error
    return event.model_copy(update={"message": words(failure) if known else _BY_CODE.get(event.error, UNKNOWN)})
