"""What a client asks and gets of the inside of a flow: commands, terminals, log lines (wire contract, sections 4 and 5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from flow_manager.contract.models import (
    Argument,
    Timestamp,
    WireModel,
    absolute_folder,
    checked_environment,
    no_control_characters,
)
from flow_manager.contract.requests import MAX_TIMEOUT, ChangeContainer, OneContainer, RequestId

MAX_COMMAND = 1024
Columns = Annotated[int, Field(ge=1, le=1000)]
Rows = Annotated[int, Field(ge=1, le=1000)]
Token = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(no_control_characters)]
Offset = Annotated[int, Field(ge=0)]
Argv = Annotated[list[Argument], Field(min_length=1, max_length=MAX_COMMAND)]


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

    @field_validator("command")
    @classmethod
    def _has_a_name(cls, command: list[str]) -> list[str]:
        if not command[0]:
            raise ValueError("the command has no name")
        return command


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


class LogLineModel(WireModel):
    """One whole line, without its newline."""

    stream: Literal["stdout", "stderr"]
    text: str
    timestamp: Timestamp | None


class LogLines(WireModel):
    """Server event `log_lines`."""

    subscription_id: str
    container_id: str
    lines: list[LogLineModel]


class GetLogs(OneContainer):
    """`since`: an ISO time, or seconds since 1970."""

    tail: Annotated[int, Field(ge=0, le=10_000)] = 100
    since: Any = None


class Logs(WireModel):
    lines: list[LogLineModel]


class FollowLogs(OneContainer):
    tail: Annotated[int, Field(ge=0, le=10_000)] = 100


class UnfollowLogs(WireModel):
    subscription_id: Token


class Following(WireModel):
    subscription_id: str


class UpdateContainer(ChangeContainer):
    code_path: Annotated[str, Field(min_length=1, max_length=4096)]
