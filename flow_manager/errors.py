"""Every error that a client, a flow or an operator can be told of.

    FlowManagerError
    ├── ValidationFailure        validation_error            InvalidRequest UnknownEvent PayloadTooLarge
    ├── RuntimeFailure           <kind>_api_error | <kind>_error   ContainerNotFound ImageNotFound NameConflict PortInUse
    │                                                        RuntimeUnavailable NoSpace Unsupported ExecFailed RuntimeRefused
    ├── CommunicationFailure     socket_communication_error  NotConnected ReplyTimeout FrameTooLarge QueueFull
    ├── StateFailure             state_error                 Conflict ContainerStopped ContainerRunning StartFailed
    │                                                        StopFailed OperationTimeout DependencyFailed WakeTimeout
    ├── PermissionRefused        permission_error            Unauthorized Forbidden PathNotAllowed ImageNotAllowed NotAllowed
    ├── LimitReached             limit_error                 RateLimited QuotaExceeded TooManyStreams
    └── SystemFailure            system_error                Internal DiskFull ShuttingDown

Each is a small carrier of data: `code` and `error_type` as in the wire contract (section 3), a message for people and
`details` for programs. `flow_manager.contract.replies` alone turns one into its wire form. Nothing in a message or in
`details` may be a secret: they reach clients and logs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

ERROR_TYPE_OF_RUNTIME_KIND = {
    "docker": "docker_api_error",
    "proxmox": "proxmox_api_error",
    "process": "process_error",
    "memory": "memory_error",
}


class Masks(Protocol):
    """Whoever knows the secrets."""

    def mask_text(self, text: str) -> str: ...

    def mask(self, data: Any) -> Any: ...


class FlowManagerError(Exception):
    """Something that has an answer for the client."""

    code: ClassVar[str] = "internal"
    type_name: ClassVar[str] = "system_error"
    # True for failures that may be gone at the next try: such a reply is never kept for a repeated request_id.
    transient: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {key: value for key, value in details.items() if value is not None}

    @property
    def error_type(self) -> str:
        return self.type_name

    def hide(self, masker: Masks) -> None:
        """Mask secrets in the message and the details; to be called before it is told to anybody."""
        self.message = masker.mask_text(self.message)
        self.details = masker.mask(self.details)
        self.args = (self.message,)


# --- validation_error -------------------------------------------------------------------------------------------------


class ValidationFailure(FlowManagerError):
    """The request itself is wrong."""

    type_name = "validation_error"
    code = "invalid_request"


class InvalidRequest(ValidationFailure):
    """A field is missing, unknown or of the wrong shape; `details.fields` = [{path, reason}]."""

    code = "invalid_request"


class UnknownEvent(ValidationFailure):
    """No such event in the catalogue; `details.event`."""

    code = "unknown_event"


class PayloadTooLarge(ValidationFailure):
    """`details.limit` and `details.size`, in bytes."""

    code = "payload_too_large"


# --- the runtime's own ------------------------------------------------------------------------------------------------


class RuntimeFailure(FlowManagerError):
    """A runtime could not, or would not. `kind` is docker, proxmox, process or memory."""

    def __init__(self, message: str, *, kind: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.kind = kind

    @property
    def error_type(self) -> str:
        return ERROR_TYPE_OF_RUNTIME_KIND.get(self.kind, f"{self.kind}_error")


class ContainerNotFound(RuntimeFailure):
    """No such flow, or none that the caller may see: the words are the same."""

    code = "container_not_found"

    def __init__(self, container_id: str, *, kind: str, **details: Any) -> None:
        super().__init__(f"no flow container '{container_id}'", kind=kind, container_id=container_id, **details)


class ImageNotFound(RuntimeFailure):
    """`details.image`, and `details.reason` when a pull was tried."""

    code = "image_not_found"


class NameConflict(RuntimeFailure):
    """`details.name`."""

    code = "name_conflict"


class PortInUse(RuntimeFailure):
    """`details.port` (host port) where it is known."""

    code = "port_in_use"


class RuntimeUnavailable(RuntimeFailure):
    """The engine is down, hangs or answers with a server error; `details.reason`."""

    code = "runtime_unavailable"
    transient = True


class NoSpace(RuntimeFailure):
    """The runtime's disk is full."""

    code = "no_space"


class Unsupported(RuntimeFailure):
    """This runtime can't do it; `details.capability`."""

    code = "unsupported"

    def __init__(self, message: str, *, kind: str, capability: str, **details: Any) -> None:
        super().__init__(message, kind=kind, capability=capability, **details)


class ExecFailed(RuntimeFailure):
    """A command could not be started at all."""

    code = "exec_failed"


class RuntimeRefused(RuntimeFailure):
    """The runtime said no for a reason of its own; its words are the message. Not in the table of the wire contract: added."""

    code = "runtime_refused"


# --- socket_communication_error ---------------------------------------------------------------------------------------


class CommunicationFailure(FlowManagerError):
    """Something on the flow's own channel."""

    type_name = "socket_communication_error"
    code = "not_connected"


class NotConnected(CommunicationFailure):
    """The flow has no connection to its channel (it is stopped, or never connected)."""

    code = "not_connected"


class ReplyTimeout(CommunicationFailure):
    """`details.waited_for` (ack, reply, write) and `details.timeout` in seconds."""

    code = "timeout"
    transient = True


class FrameTooLarge(CommunicationFailure):
    """A message that would not fit one line; `details.limit` and `details.size` in bytes."""

    code = "frame_too_large"


class QueueFull(CommunicationFailure):
    """The flow does not read what it is sent; `details.limit`."""

    code = "queue_full"


# --- state_error ------------------------------------------------------------------------------------------------------


class StateFailure(FlowManagerError):
    """The flow is not in a state in which this can be done."""

    type_name = "state_error"
    code = "conflict"


class Conflict(StateFailure):
    """Another operation is under way or came in between; `details.operation`."""

    code = "conflict"
    transient = True


class ContainerStopped(StateFailure):
    """The flow must be running for this, and is not."""

    code = "container_stopped"


class ContainerRunning(StateFailure):
    """The flow must not be running for this; `details.state`."""

    code = "container_running"


class StartFailed(StateFailure):
    """`details.exit_code` and `details.reason` where they are known."""

    code = "start_failed"


class StopFailed(StateFailure):
    """It still runs after the signal, the grace and the kill."""

    code = "stop_failed"


class DependencyFailed(StateFailure):
    """`details.dependency`, and `details.reason`."""

    code = "dependency_failed"


class WakeTimeout(StateFailure):
    """`details.waited_for` and `details.timeout` in seconds."""

    code = "wake_timeout"


class OperationTimeout(StateFailure):
    """`details.operation` and `details.timeout` in seconds."""

    code = "timeout"
    transient = True


# --- permission_error -------------------------------------------------------------------------------------------------


class PermissionRefused(FlowManagerError):
    type_name = "permission_error"
    code = "forbidden"


class Unauthorized(PermissionRefused):
    """No token, or one that is not known."""

    code = "unauthorized"


class Forbidden(PermissionRefused):
    """The principal lacks the scope; `details.scope`."""

    code = "forbidden"


class PathNotAllowed(PermissionRefused):
    """A host path outside the allowed roots; `details.path` as the client gave it."""

    code = "path_not_allowed"


class ImageNotAllowed(PermissionRefused):
    """`details.image`."""

    code = "image_not_allowed"


class NotAllowed(PermissionRefused):
    """Something that settings do not allow; `details` say which setting would."""

    code = "not_allowed"


# --- limit_error ------------------------------------------------------------------------------------------------------


class LimitReached(FlowManagerError):
    """`details.retry_after` in seconds, where waiting helps."""

    type_name = "limit_error"
    code = "rate_limited"


class RateLimited(LimitReached):
    code = "rate_limited"
    transient = True


class QuotaExceeded(LimitReached):
    code = "quota_exceeded"


class TooManyStreams(LimitReached):
    """Streams end all the time: it may be tried again in a second, unless `retry_after` says otherwise."""

    code = "too_many_streams"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **{"retry_after": 1, **details})


# --- system_error -----------------------------------------------------------------------------------------------------


class SystemFailure(FlowManagerError):
    type_name = "system_error"
    code = "internal"


class Internal(SystemFailure):
    """A fault of ours; `details.error_id` is in the log beside the trace, which the client never gets."""

    code = "internal"
    transient = True


class DiskFull(SystemFailure):
    """The manager's own state folder has no space left."""

    code = "disk_full"


class ShuttingDown(SystemFailure):
    """The service is about to end."""

    code = "shutting_down"
    transient = True


class SettingsRefused(Exception):
    """A setting is wrong: raised at start-up alone, its text is for the operator and names the setting and the remedy."""


class StateFolderLocked(SettingsRefused):
    """Another manager runs with the same state folder."""
