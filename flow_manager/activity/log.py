"""UserActivityLogger: what happened, in words for people. Every entry of the activity log is worded here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flow_manager.activity.drafts import one_line
from flow_manager.activity.stream import ActivityStream
from flow_manager.contract.principal import DEFAULT_TENANT, MANAGER
from flow_manager.errors import FlowManagerError
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.util.clock import Clock
from flow_manager.util.strict_json import JsonRefused, dumps

# Who acted, where no principal did.
BY_FLOW = "flow"
BY_RUNTIME = "runtime"
# What of a message is shown in the entry's own words.
_EXCERPT = 200
_SIGNAL_OFFSET = 128
_SIGNAL_NAMES = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}

Stored = asyncio.Future[StoredActivity]


@dataclass(frozen=True, slots=True)
class FlowRef:
    """The flow that an entry is about."""

    id: str
    name: str
    tenant: str


class UserActivityLogger:
    """Each method adds one entry and returns the future that ends once it is stored; nobody needs to await it.

    `actor` is the name of the principal who asked. Further keyword arguments become the entry's `details`.
    """

    def __init__(self, stream: ActivityStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    async def last_type(self, flow: FlowRef, types: Sequence[str]) -> str | None:
        """Which of these was the newest entry of this flow; None: there is none."""
        found = await self._stream.read(
            limit=1, tenant=flow.tenant, container_id=flow.id, types=types, newest_first=True
        )
        return found[0].entry.type if found else None

    def log_container_created(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        image = details.get("image")
        message = f"{actor} created flow {_called(flow)}" + (f" from image {image}" if image else "")
        return self._add("container_created", flow, actor, message, details)

    def log_container_started(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_started", flow, actor, _done(flow, actor, "started"), details)

    def log_container_stopped(self, flow: FlowRef, actor: str, exit_code: int | None = None, **details: Any) -> Stored:
        message = _done(flow, actor, "stopped") + _with_code(exit_code)
        return self._add("container_stopped", flow, actor, message, {"exit_code": exit_code, **details})

    def log_container_killed(self, flow: FlowRef, actor: str, signal: str = "SIGKILL", **details: Any) -> Stored:
        message = (
            _done(flow, actor, "killed") if signal == "SIGKILL" else f"{actor} sent {signal} to flow {_called(flow)}"
        )
        return self._add("container_killed", flow, actor, message, {"signal": signal, **details})

    def log_container_paused(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_paused", flow, actor, _done(flow, actor, "paused"), details)

    def log_container_unpaused(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_unpaused", flow, actor, _done(flow, actor, "resumed"), details)

    def log_container_restarted(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_restarted", flow, actor, _done(flow, actor, "restarted"), details)

    def log_container_deleted(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_deleted", flow, actor, _done(flow, actor, "deleted"), details)

    def log_container_updated(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        return self._add("container_updated", flow, actor, f"{actor} updated the code of flow {_called(flow)}", details)

    def log_container_rolled_back(self, flow: FlowRef, actor: str, reason: str | None = None, **details: Any) -> Stored:
        """`reason`: an update has failed; without one, somebody wanted the older code back."""
        if reason is None:
            message = f"{actor} took flow {_called(flow)} back to its older code"
        else:
            message = f"the new code of flow {_called(flow)} failed, the old one is back: {reason}"
        return self._add("container_rolled_back", flow, actor, message, {"reason": reason, **details})

    def log_container_died(
        self, flow: FlowRef, exit_code: int | None = None, cause: str | None = None, **details: Any
    ) -> Stored:
        """It ended though nobody asked us. `cause`: `oom` where the kernel killed it for its memory, `stop` where somebody
        ended it past the manager (`docker stop`, `docker kill`)."""
        if cause == "oom":
            message = f"flow {_called(flow)} ran out of memory and was killed"
        elif cause == "stop":
            message = f"flow {_called(flow)} was stopped outside the manager{_with_code(exit_code)}"
        else:
            message = f"flow {_called(flow)} ended by itself{_with_code(exit_code)}"
        told = {"exit_code": exit_code, "cause": cause, **details}
        return self._add("container_died", flow, BY_RUNTIME, message, told)

    def log_container_adopted(self, flow: FlowRef, actor: str = MANAGER.name, **details: Any) -> Stored:
        return self._add(
            "container_adopted", flow, actor, f"flow {_called(flow)} was found and is managed now", details
        )

    def log_container_released(self, flow: FlowRef, actor: str, **details: Any) -> Stored:
        message = f"{actor} released flow {_called(flow)}: it goes on, but is not managed any more"
        return self._add("container_released", flow, actor, message, details)

    def log_container_lost(self, flow: FlowRef, **details: Any) -> Stored:
        message = f"flow {_called(flow)} is gone: its container was removed by someone else"
        return self._add("container_lost", flow, BY_RUNTIME, message, details)

    def log_image_pulling(self, flow: FlowRef, actor: str, progress: str, **details: Any) -> Stored:
        """`progress` in the runtime's words: "pulling alpine:3: 40 %"."""
        return self._add("image_pulling", flow, actor, f"flow {_called(flow)}: {progress}", details)

    def log_container_message(self, flow: FlowRef, body: Any) -> Stored:
        """What a flow sent on its own. A large body stays out of the log; the message begins with its first words."""
        message = f"flow {_called(flow)} says: {self._excerpt(body)}"
        return self._add("container_message", flow, BY_FLOW, message, {"message": body})

    def log_actor_event(
        self, flow: FlowRef, actor: str, event: str, details: Mapping[str, Any] | None = None
    ) -> Stored:
        """Something that an actor inside the flow did; `actor` and `event` are the flow's own words."""
        message = f"flow {_called(flow)}: {actor}: {event}"
        told = {"actor": actor, "event": event, "details": dict(details or {})}
        return self._add("actor_event", flow, BY_FLOW, message, told)

    def log_exec(
        self,
        flow: FlowRef,
        actor: str,
        line: str,
        *,
        command: Sequence[str],
        duration: float,
        exit_code: int | None = None,
        error: FlowManagerError | None = None,
    ) -> Stored:
        """A command was run in it. `line` and `command`: secrets masked; `duration` in seconds, its wake included."""
        if exit_code is not None:
            came = f"exit code {exit_code}"
        else:
            came = error.message if error is not None else "it was ended with the service"
        message = f"{actor} ran `{line}` in flow {_called(flow)}: {came}"
        told: dict[str, Any] = {"command": list(command), "exit_code": exit_code, "duration": duration}
        if error is not None:
            told |= {"code": error.code, "left_running": error.details.get("left_running")}
        return self._add("exec", flow, actor, message, told)

    def log_terminal_opened(self, flow: FlowRef, actor: str, target: str, **details: Any) -> Stored:
        """Never what is typed or shown in it."""
        what = "the terminal of" if target == "main" else "a terminal in"
        message = f"{actor} opened {what} flow {_called(flow)}"
        return self._add("terminal_opened", flow, actor, message, {"target": target, **details})

    def log_terminal_closed(self, flow: FlowRef, actor: str, exit_code: int | None = None, **details: Any) -> Stored:
        message = f"{actor}'s terminal in flow {_called(flow)} ended{_with_code(exit_code)}"
        return self._add("terminal_closed", flow, actor, message, {"exit_code": exit_code, **details})

    def log_operation_failed(
        self, flow: FlowRef, actor: str, operation: str, error: FlowManagerError, **details: Any
    ) -> Stored:
        message = f"{operation.replace('_', ' ')} of flow {_called(flow)} failed: {error.message}"
        told = {"operation": operation, "code": error.code, "error_type": error.error_type, **details}
        return self._add("operation_failed", flow, actor, message, told)

    def log_operation_recovered(self, flow: FlowRef, operation: str, **details: Any) -> Stored:
        """After a restart of the manager: what it had begun is done, or undone."""
        message = (
            f"{operation.replace('_', ' ')} of flow {_called(flow)}, begun before a restart, was brought to its end"
        )
        return self._add("operation_recovered", flow, MANAGER.name, message, {"operation": operation, **details})

    def log_runtime_unavailable(self, runtime: str, reason: str, *, tenant: str = DEFAULT_TENANT) -> Stored:
        message = f"runtime {runtime} does not answer: {reason}"
        return self.log_user_activity(
            "runtime_unavailable",
            message,
            tenant=tenant,
            actor=BY_RUNTIME,
            details={"runtime": runtime, "reason": reason},
        )

    def log_runtime_available(self, runtime: str, *, tenant: str = DEFAULT_TENANT) -> Stored:
        message = f"runtime {runtime} answers again"
        return self.log_user_activity(
            "runtime_available", message, tenant=tenant, actor=BY_RUNTIME, details={"runtime": runtime}
        )

    def log_user_activity(
        self,
        type: str,
        message: str,
        *,
        flow: FlowRef | None = None,
        tenant: str = DEFAULT_TENANT,
        actor: str = MANAGER.name,
        details: Mapping[str, Any] | None = None,
    ) -> Stored:
        """Anything else. With a flow, the entry is its tenant's."""
        draft = ActivityDraft(
            type=type,
            tenant=flow.tenant if flow is not None else tenant,
            container_id=None if flow is None else flow.id,
            name=None if flow is None else flow.name,
            actor=actor,
            message=message,
            details={key: value for key, value in (details or {}).items() if value is not None},
            timestamp=self._clock.now(),
        )
        return self._stream.add(draft)

    def _add(self, type: str, flow: FlowRef, actor: str, message: str, details: Mapping[str, Any]) -> Stored:
        return self.log_user_activity(type, message, flow=flow, actor=actor, details=details)

    def _excerpt(self, body: Any) -> str:
        if isinstance(body, Mapping) and len(body) == 1:
            (only,) = body.values()
            if isinstance(only, str):
                return one_line(only, self._stream.masker, _EXCERPT)
        # Masked as data, by the names in it, too; cut only then. A large body isn't shown: see `drafts`.
        try:
            text = dumps(body)
        except JsonRefused:
            return "(something that is not JSON)"
        if len(text) > _EXCERPT * 10:
            return f"({len(text)} bytes)"
        return one_line(dumps(self._stream.masker.mask(body)), self._stream.masker, _EXCERPT)


def _called(flow: FlowRef) -> str:
    return f"*{flow.name}*"


def _done(flow: FlowRef, actor: str, what: str) -> str:
    """ "alice stopped flow *x*"; without a person "flow *x* stopped"."""
    if actor in (MANAGER.name, BY_RUNTIME, BY_FLOW):
        was = "was " if what in ("killed", "deleted", "paused") else ""
        return f"flow {_called(flow)} {was}{what}"
    return f"{actor} {what} flow {_called(flow)}"


def _with_code(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    number = exit_code - _SIGNAL_OFFSET
    # A shell, and a container engine, report death by a signal as 128 and its number.
    by = f" ({_SIGNAL_NAMES[number]})" if number in _SIGNAL_NAMES else ""
    return f" with exit code {exit_code}{by}"
