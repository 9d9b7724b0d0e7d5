"""Why did a container end? The engine's events tell it in pieces; here they are put together.

`docker stop` is a `kill` event with the container's stop signal, perhaps another one with KILL, then `die`, then `stop`.
`docker kill` is `kill` and `die`. A process that ends by itself has a `die` alone, one that ran out of memory an `oom`
before it. The engine does not say who sent a signal: those that this manager sends are announced here first.
"""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["exit", "oom", "stop"]
# What is sent to end a program, beside the stop signal that its image names.
ENDING = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT"})
# An end within so many seconds after such a signal is its doing, whatever the exit code: Docker's default grace, and a bit.
# Later only the exit code of that very signal is, or the `stop` event that follows.
SIGNAL_MEMORY = 15.0
KILLED_BY_SIGNAL = 128
NANO = 1_000_000_000


@dataclass(slots=True)
class _Run:
    """What was seen of one run of one container."""

    out_of_memory: bool = False
    signal: str | None = None
    at: int = 0
    by_us: bool = False
    ended: bool = False
    cause: Cause | None = None


@dataclass(slots=True, eq=False)
class Causes:
    """Of one event stream, by the engine's container id."""

    _runs: dict[str, _Run] = field(default_factory=dict)
    _announced: dict[str, int] = field(default_factory=dict)

    def announce(self, runtime_id: str) -> None:
        """This manager is about to send a signal."""
        self._announced[runtime_id] = self._announced.get(runtime_id, 0) + 1

    def withdraw(self, runtime_id: str) -> None:
        """It could not be sent."""
        if self._announced.get(runtime_id, 0) > 0:
            self._announced[runtime_id] -= 1

    def signalled(self, runtime_id: str, signal: str, nano: int, *, stop_signal: str | None = None) -> None:
        """`signal` by its name with SIG."""
        by_us = self._announced.get(runtime_id, 0) > 0
        if by_us:
            self._announced[runtime_id] -= 1
        if signal in ENDING or signal == stop_signal:
            run = self._runs.setdefault(runtime_id, _Run())
            # Somebody outside who wants the end of what we are ending anyway still wants it.
            run.by_us = by_us and (run.signal is None or run.by_us)
            run.signal, run.at = signal, nano

    def out_of_memory(self, runtime_id: str) -> None:
        self._runs.setdefault(runtime_id, _Run()).out_of_memory = True

    def started(self, runtime_id: str) -> None:
        self.forget(runtime_id)

    def ended(self, runtime_id: str, exit_code: int | None, nano: int) -> Cause | None:
        """None: this manager ended it."""
        run = self._runs.setdefault(runtime_id, _Run())
        self._announced.pop(runtime_id, None)
        run.ended = True
        if run.out_of_memory:
            run.cause = "oom"
        elif run.signal is None or not _its_doing(run.signal, run.at, exit_code, nano):
            run.cause = "exit"
        else:
            run.cause = None if run.by_us else "stop"
        return run.cause

    def stopped(self, runtime_id: str) -> bool:
        """`docker stop` says that it is done. True when the end was told otherwise: it took the stop's time to end by itself."""
        run = self._runs.get(runtime_id)
        if run is None or not run.ended or run.cause != "exit":
            return False
        run.cause = "stop"
        return True

    def forget(self, runtime_id: str) -> None:
        self._runs.pop(runtime_id, None)
        self._announced.pop(runtime_id, None)


def _its_doing(signal: str, at: int, exit_code: int | None, nano: int) -> bool:
    if nano - at <= SIGNAL_MEMORY * NANO:
        return True
    try:
        return exit_code == KILLED_BY_SIGNAL + signals.Signals[signal].value
    except KeyError:
        return False
