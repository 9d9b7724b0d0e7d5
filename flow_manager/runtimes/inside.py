"""The inside of a flow, as every runtime shows it: commands, terminals, and the lines that it writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from flow_manager.errors import InvalidRequest, Unsupported

# The best shell that there is. Known by its path: a flow's PATH may be anything.
BEST_SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")
# What programs are told of the terminal; what nearly every terminal that people use can do, and every system knows.
TERMINAL_TYPE = "xterm-256color"
# In the environment of all that one command or terminal started, with a value of its own: so that it can be ended, wherever
# it went.
MARK = "FLOW_EXEC_ID"

LogStream = Literal["stdout", "stderr"]
LogPosition = tuple[int, ...]
"""A place between two lines of a flow's log; of two lines the later one's is greater. Only its own runtime can read it."""


class LogLine(NamedTuple):
    """One line that a flow wrote, without its newline. A tuple, because tens of thousands a second are made of it.

    `timestamp` aware, UTC; None where the runtime keeps none. `position`: right behind this line. `whole` False: the flow
    has not ended this line yet, and may write on (such a line is not in what is followed).
    """

    stream: LogStream
    text: str
    timestamp: datetime | None = None
    position: LogPosition = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run inside a flow: argv, never a shell's text. `environment` is added to the flow's own variables."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_dir: str | None = None


@dataclass(frozen=True, slots=True)
class ExecOutcome:
    """How a command ended. 126 and 127 as a shell gives them: found but can't be run, not found."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Terminal(Protocol):
    """A PTY in a flow, open. Bytes both ways."""

    async def read(self) -> bytes:
        """The next bytes; empty at its end: the program ended, the flow did, or the runtime lost it. Nobody reads: the program
        is held up (flow control), nothing is lost or piles up."""
        ...

    async def write(self, data: bytes) -> None:
        """Input, in order; waits while the program does not read. Written to one that has ended, it is dropped."""
        ...

    async def resize(self, cols: int, rows: int) -> None:
        """Tell the program its size; one that has ended is left alone."""
        ...

    async def wait(self) -> int | None:
        """The exit code, once it has ended; None where nobody knows it."""
        ...

    async def close(self) -> None:
        """Give it up; must be called, also after its end. A shell of its own is ended with all that it started (hang-up, then
        kill), as it is when it ends by itself; the flow's own program (`main`) goes on. Never raises for what is gone."""
        ...


class Inside(Protocol):
    """The part of the runtime protocol that looks inside. `Capabilities` says up front what is `unsupported`."""

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        """Run it beside the flow's own program and wait for its end; of each stream at most `limit` bytes are kept.

        :raises ContainerNotFound, ContainerStopped, Unsupported, RuntimeUnavailable:
        :raises ExecFailed: it could not be started at all.
        :raises OperationTimeout: not ended after `timeout` seconds. What it started was ended, or `details.left_running`.
        """
        ...

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        """Open a terminal: a new one on `command` (None: a shell, the best that is there), or, with `main`, the flow's own.

        A command that is not there, or can't be run, is a terminal that says so and ends with 127 or 126.

        :raises ContainerNotFound, ContainerStopped, Unsupported, RuntimeUnavailable:
        :raises InvalidRequest: `main` of a flow that was not made with `tty`.
        :raises ExecFailed: it could not be started.
        """
        ...

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        """The last `tail` lines, oldest first, streams mixed; of those only what was written at `since` or later. Of a flow
        that does not run, too. What would take more than some megabytes loses its oldest lines.

        :raises ContainerNotFound, Unsupported, RuntimeUnavailable:
        """
        ...

    def follow_logs(self, id: str, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        """All lines behind `after` (of a line that `logs` gave; empty: from the first one), as they are written, in batches.

        Ends when the flow does not run (any more), after its last line: go on behind that when it has started again.
        Nobody reads: nothing piles up here. Close it (`aclose`) to give back what it holds.

        :raises ContainerNotFound, Unsupported, RuntimeUnavailable: also in mid-stream.
        """
        ...


def no_terminal_of_its_own() -> InvalidRequest:
    reason = "the flow has no terminal of its own (it was not made with 'tty')"
    return InvalidRequest(f"target: {reason}", fields=[{"path": "target", "reason": reason}])


class NothingInside:
    """For a runtime that can't look inside."""

    kind: str
    name: str

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        raise self._unsupported("exec")

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        raise self._unsupported("attach")

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        raise self._unsupported("logs")

    def follow_logs(self, id: str, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        raise self._unsupported("logs")

    def _unsupported(self, capability: str) -> Unsupported:
        return Unsupported(f"the runtime '{self.name}' has no {capability}", kind=self.kind, capability=capability)
