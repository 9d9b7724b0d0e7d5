"""SystemLogger: what operators read. loguru underneath; lines go through a bounded writer and are masked.

Messages are constant: what comes from outside stands in fields. (loguru formats a message that comes with keyword
arguments, so that user text with braces in it would raise, or print what it should not.) No method that is called per
message or event writes above DEBUG: a line costs some 35 µs, as much as handling the event.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from loguru import logger as _loguru

from flow_manager.errors import FlowManagerError, SettingsRefused
from flow_manager.observability.bridge import Bridge
from flow_manager.observability.lines import Format, line_of, trace_of
from flow_manager.observability.writer import FileOutput, LineWriter, Output, StreamOutput
from flow_manager.settings.models import LogSettings

if TYPE_CHECKING:
    from loguru import Message

_WARNING = 30
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}


class MasksText(Protocol):
    """`activity.redact.Masker`, or whatever else hides secrets in a text."""

    def mask_text(self, text: str) -> str: ...


def configure(
    settings: LogSettings,
    masker: MasksText | None = None,
    *,
    stream: TextIO | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> SystemLogger:
    """Set the whole process's logging up: standard error (or `stream`), and the file if one is set. `close()` undoes it.

    :raises SettingsRefused: the file can't be opened.
    """
    outputs: list[Output] = [StreamOutput(stream if stream is not None else sys.stderr)]
    if settings.file is not None:
        try:
            outputs.append(FileOutput(settings.file))
        except OSError as exc:
            raise SettingsRefused(
                f"log.file: {settings.file} can't be opened ({exc.strerror or exc}): choose a file that this user can write"
            ) from exc
    writer = LineWriter(outputs, say_dropped=lambda count: _dropped_line(settings.format, count))
    writer.open()
    _loguru.remove()

    def sink(message: Message) -> None:
        # Only put down here; the line is made in the writer's thread.
        record = message.record
        writer.put(partial(_line, record, settings.format, masker), important=record["level"].no >= _WARNING)

    _loguru.add(sink, level=settings.level, format="{message}", backtrace=False, diagnose=False, catch=True)
    bridge = Bridge(_emit_foreign, monotonic)
    bridge.open()

    def close() -> None:
        bridge.close()
        _loguru.remove()
        writer.close()

    return SystemLogger(level=settings.level, on_close=close)


class SystemLogger:
    """Fields: container, event, sid, operation, duration (seconds), actor, outcome. None is left out.

    Made by `configure`; one made without it writes to whatever loguru writes to at the time.
    """

    def __init__(self, *, level: str = "DEBUG", on_close: Callable[[], None] | None = None) -> None:
        # Known here because asking loguru costs more than the whole call where DEBUG is off, the usual case.
        self.debug_on = _LEVELS[level] <= _LEVELS["DEBUG"]
        self._on_close = on_close

    def close(self) -> None:
        """Write what waits (two seconds at most) and end the writer. May be called twice."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def log_container_operation(
        self,
        operation: str,
        container: str | None,
        *,
        actor: str | None = None,
        duration: float | None = None,
        outcome: str = "ok",
        error: BaseException | None = None,
        **fields: Any,
    ) -> None:
        """One finished operation. INFO, or WARNING with what went wrong; a trace only for what isn't an answer."""
        bound = _loguru.bind(
            container=container,
            operation=operation,
            actor=actor,
            duration=duration,
            outcome=outcome,
            **{**_told(error), **fields},
        )
        if error is None:
            bound.info("container operation")
        elif isinstance(error, FlowManagerError):
            bound.warning("container operation failed")
        else:
            bound.opt(exception=error).error("container operation failed")

    def log_socket_event(
        self,
        event: str,
        sid: str,
        *,
        actor: str | None = None,
        duration: float | None = None,
        outcome: str = "ok",
        **fields: Any,
    ) -> None:
        """One event of a client: DEBUG."""
        if self.debug_on:
            _loguru.bind(event=event, sid=sid, actor=actor, duration=duration, outcome=outcome, **fields).debug(
                "socket event"
            )

    def log_communication(
        self,
        container: str,
        direction: str,
        *,
        kind: str | None = None,
        size: int | None = None,
        outcome: str = "ok",
        **fields: Any,
    ) -> None:
        """One frame to or from a flow: DEBUG. Never its content."""
        if self.debug_on:
            _loguru.bind(
                container=container, direction=direction, kind=kind, size=size, outcome=outcome, **fields
            ).debug("communication")

    def log_error(self, error_id: str, error: BaseException, **fields: Any) -> None:
        """A fault, with its trace; `error_id` is what the client was told."""
        _loguru.bind(error_id=error_id, **{**_told(error), **fields}).opt(exception=error).error("error")

    def log_state_change(self, subject: str, *, before: str | None, after: str, **fields: Any) -> None:
        """A flow, a runtime or a part of the service is in another state now: INFO."""
        _loguru.bind(container=subject, before=before, after=after, **fields).info("state change")

    def log_notice(self, message: str, *, warning: bool = False, **fields: Any) -> None:
        """The service about itself: started, stopping. `message` is a constant; anything variable goes into fields."""
        bound = _loguru.bind(**fields)
        (bound.warning if warning else bound.info)(message)

    def log_debug(self, message: str, **fields: Any) -> None:
        """`message` is a constant; anything variable goes into fields."""
        if self.debug_on:
            _loguru.bind(**fields).debug(message)


def _told(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {}
    if isinstance(error, FlowManagerError):
        return {"code": error.code, "reason": error.message}
    return {"code": "internal", "reason": f"{type(error).__name__}: {error}"}


def _line(record: Any, style: Format, masker: MasksText | None) -> str:
    exception = record["exception"]
    trace = trace_of(exception.value) if exception is not None else None
    message = record["message"]
    fields: dict[str, Any] = record["extra"]
    if masker is not None:
        # Each text by itself, before it is escaped: a secret with a quote in it would not be found in the finished line.
        message = masker.mask_text(message)
        fields = {key: masker.mask_text(value) if isinstance(value, str) else value for key, value in fields.items()}
        trace = None if trace is None else masker.mask_text(trace)
    return line_of(style, at=record["time"], level=record["level"].name, message=message, fields=fields, trace=trace)


def _dropped_line(style: Format, count: int) -> str:
    return line_of(
        style,
        at=datetime.now(UTC),
        level="WARNING",
        message="log lines were dropped: more came than could be written",
        fields={"count": count},
    )


def _emit_foreign(level: str, name: str, message: str, error: BaseException | None, held: int) -> None:
    bound = _loguru.bind(logger=name, reason=message, held_back=held or None)
    bound.opt(exception=error).log(level if level in _LEVELS else "ERROR", "library")
