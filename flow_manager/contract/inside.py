"""What a client asks and gets of the inside of a flow: commands, terminals, log lines (wire contract, sections 4 and 5)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, field_validator

from flow_manager.contract.fields import (
    Argument,
    Timestamp,
    absolute_folder,
    checked_environment,
    no_control_characters,
    no_nul,
)
from flow_manager.contract.models import ResourceUsage, WireModel
from flow_manager.contract.requests import MAX_TIMEOUT, ChangeContainer, OneContainer, RequestId

MAX_COMMAND = 1024
Columns = Annotated[int, Field(ge=1, le=1000)]
Rows = Annotated[int, Field(ge=1, le=1000)]
Token = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(no_control_characters)]
Offset = Annotated[int, Field(ge=0)]


def _has_a_name(command: list[str]) -> list[str]:
    if not command[0]:
        raise ValueError("the command has no name")
    return command


Argv = Annotated[list[Argument], Field(min_length=1, max_length=MAX_COMMAND), AfterValidator(_has_a_name)]


# Without any time nothing could be run, so that 0 is a mistake and not "at once".
ExecTimeout = Annotated[float, Field(gt=0, le=MAX_TIMEOUT)]


class ExecContainer(ChangeContainer):
    """`timeout`: seconds that the command may take; waking a flow that sleeps comes on top."""

    command: Argv
    environment: dict[str, str] = Field(default={})
    working_dir: Annotated[str, Field(max_length=4096)] | None = None
    timeout: ExecTimeout = 60

    @field_validator("environment")
    @classmethod
    def _environment(cls, environment: dict[str, str]) -> dict[str, str]:
        return checked_environment(environment)

    @field_validator("working_dir")
    @classmethod
    def _working_dir(cls, path: str | None) -> str | None:
        return None if path is None else absolute_folder(path)


class ExecResult(WireModel):
    """`stdout` and `stderr` at most 1 MiB each, what isn't UTF-8 as U+FFFD; `truncated`: there was more."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool


class AttachContainer(OneContainer):
    """`terminal_id`: join that live terminal, and replay from offset `after` (absent: all that is kept).

    `request_id`: repeated while the terminal that it opened is there, joins that one.
    """

    target: Literal["shell", "main"] = "shell"
    command: Argv | None = None
    cols: Columns = 80
    rows: Rows = 24
    terminal_id: Token | None = None
    after: Offset | None = None
    request_id: RequestId | None = None


class Attached(WireModel):
    """`offset`: of the first byte that follows as `terminal_output`."""

    terminal_id: str
    offset: int


class OneTerminal(WireModel):
    """`request_id`: input that is repeated with the same one is typed once."""

    terminal_id: Token
    request_id: RequestId | None = None


class TerminalInput(OneTerminal):
    data: str | bytes


class TerminalResize(OneTerminal):
    cols: Columns
    rows: Rows


class TerminalOutput(WireModel):
    """Server event. `offset`: of `data`'s first byte in all that the terminal ever wrote."""

    terminal_id: str
    offset: int
    data: bytes


class TerminalClosed(WireModel):
    """Server event. `exit_code` null where nobody knows it."""

    terminal_id: str
    exit_code: int | None


# Lines come faster than one a millisecond.
LogTime = Annotated[datetime, PlainSerializer(lambda at: at.isoformat().replace("+00:00", "Z"), when_used="json")]


class LogLineModel(WireModel):
    """One line, without its newline; one of more than 64 KiB comes in pieces, each as a line. Terminal commands (ESC …) are
    left as they are, known secrets are masked. `timestamp` null where the runtime keeps none."""

    stream: Literal["stdout", "stderr"]
    text: str
    timestamp: LogTime | None


class LogLines(WireModel):
    """Server event `log_lines`, to the connection that follows. `lost`: so many lines before these were left out, because
    the client did not read fast enough. `ended`: nothing more comes, and why, as an error's code (`container_not_found`:
    the flow was deleted)."""

    subscription_id: str
    container_id: str
    lines: list[LogLineModel]
    lost: int = 0
    ended: str | None = None


Tail = Annotated[int, Field(ge=0, le=10_000)]


def _moment(value: Any) -> datetime:
    """:raises ValueError: neither an ISO 8601 time nor seconds since 1970."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                at = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("neither an ISO 8601 time nor seconds since 1970") from None
            # Without an offset: UTC, as every time of this contract.
            try:
                return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
            except OverflowError:  # an hour before the year 1, or behind 9999
                raise ValueError("not a time that there is") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            raise ValueError("not a time that there is") from None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ValueError("neither an ISO 8601 time nor seconds since 1970")


Since = Annotated[
    datetime,
    PlainValidator(_moment, json_schema_input_type=str | float),
    PlainSerializer(lambda at: at.isoformat(), when_used="json"),
]
"""An ISO 8601 time (UTC where it names no offset), or seconds since 1970, also as text."""


class GetLogs(OneContainer):
    """The last `tail` lines, of those only what was written at `since` or later; of a flow that does not run, too, which is
    not woken. Reading is no use of a flow: it may fall asleep meanwhile. At most 1 MiB: beyond it the oldest are left out."""

    tail: Tail = 100
    since: Since | None = None


class Logs(WireModel):
    lines: list[LogLineModel]


class FollowLogs(OneContainer):
    """As `get_logs`, and then each new line, across stops and starts of the flow, until it is deleted."""

    tail: Tail = 100
    since: Since | None = None


class OneSubscription(WireModel):
    subscription_id: Token


class Following(WireModel):
    subscription_id: str


class UsageSample(WireModel):
    """Server event `resource_usage`, every two seconds while the flow runs (less often where many are followed), and once
    with nulls when it ends or sleeps. `ended` as in `log_lines`."""

    subscription_id: str
    container_id: str
    resource_usage: ResourceUsage
    timestamp: Timestamp
    ended: str | None = None


class UpdateContainer(ChangeContainer):
    code_path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(no_nul)]
