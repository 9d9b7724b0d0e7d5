"""A thread that writes log lines, with a bounded queue: a slow disk or a reader that stopped never holds up the loop.

loguru's own `enqueue=True` has a queue without bound; a sink without it writes in the loop, where a blocked pipe stops all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol, TextIO

# A line is some 200 bytes: two megabytes at most wait.
MAX_WAITING = 10_000
# Warnings and worse are still taken up to here, so that a flood of small talk can't hide them.
MAX_WAITING_IMPORTANT = 12_000
CLOSE_SECONDS = 2.0
_BATCH = 200

FILE_BYTES = 10 * 1024 * 1024
FILES_KEPT = 5


class Output(Protocol):
    def write(self, lines: Sequence[str]) -> None:
        """May block; may raise OSError or ValueError, after which the lines count as lost."""
        ...

    def close(self) -> None: ...


class StreamOutput:
    """Standard error, usually. Not closed: it isn't ours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, lines: Sequence[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class FileOutput:
    """A file that only its owner can read, rotated by size: `flow.log`, `flow.log.1` … `.4`."""

    def __init__(self, path: Path, *, max_bytes: int = FILE_BYTES, files: int = FILES_KEPT) -> None:
        """:raises OSError: it can't be opened."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handler = _PrivateRotatingFile(path, maxBytes=max_bytes, backupCount=files - 1, encoding="utf-8")

    def write(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._handler.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._handler.close()


class _PrivateRotatingFile(RotatingFileHandler):
    def _open(self) -> Any:
        def opener(name: str, flags: int) -> int:
            return os.open(name, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:
        # The standard library would print a trace to standard error for each line that a full disk refuses.
        raise


class LineWriter:
    """Takes jobs (each makes its line in the thread) and never blocks. What does not fit is counted, and the count told."""

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        say_dropped: Callable[[int], str],
        max_waiting: int = MAX_WAITING,
        max_waiting_important: int = MAX_WAITING_IMPORTANT,
    ) -> None:
        self._outputs = tuple(outputs)
        self._say_dropped = say_dropped
        self._max_waiting = max_waiting
        self._max_waiting_important = max_waiting_important
        self._jobs: deque[Callable[[], str]] = deque()
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition()
        # A daemon: a reader of standard error that stopped reading must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def put(self, job: Callable[[], str], *, important: bool) -> None:
        """From any thread."""
        with self._changed:
            limit = self._max_waiting_important if important else self._max_waiting
            if self._closing or len(self._jobs) >= limit:
                self._dropped += 1
                return
            self._jobs.append(job)
            self._changed.notify()

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Write what waits, at most `timeout` seconds long. False when the thread is still stuck in a write."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        for output in self._outputs:
            output.close()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                jobs = [self._jobs.popleft() for _ in range(min(_BATCH, len(self._jobs)))]
                dropped, self._dropped = self._dropped, 0
                ended = self._closing and not jobs
            if dropped:
                jobs.append(lambda count=dropped: self._say_dropped(count))  # type: ignore[misc]
            if jobs:
                self._write([_line(job) for job in jobs])
            if ended:
                return

    def _write(self, lines: list[str]) -> None:
        for output in self._outputs:
            # A log that can't be written is no reason to end; each output is tried anew with the next lines.
            with contextlib.suppress(OSError, ValueError):
                output.write(lines)


def _line(job: Callable[[], str]) -> str:
    try:
        return job()
    except Exception as exc:
        return f"a log line could not be made: {type(exc).__name__}"
