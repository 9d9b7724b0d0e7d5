"""What goes through the standard library's logging, the libraries' and our own modules' warnings, comes into our log, from
WARNING on, and can't flood it."""

from __future__ import annotations

import logging
from collections.abc import Callable

# Ours, too: modules below observability can't be given the log, and have something to warn of.
BRIDGED = (
    "aiohttp", "socketio", "engineio", "aiodocker", "aiosqlite", "alembic", "asyncio", "sqlalchemy", "flow_manager",
)  # fmt: skip
# Out of file descriptors, asyncio logs thousands of traces a second: of lines that are the same, one a second is enough.
SECONDS_BETWEEN_SAME = 1.0
_MAX_KNOWN = 256

Emit = Callable[[str, str, str, BaseException | None, int], None]
"""Told: level name, logger's name, message, exception, how many of the same were held back since the last one."""


class SameLines:
    """Which lines are let through: one a second of each that is the same. Pure; `now` is monotonic seconds."""

    def __init__(self, *, seconds: float = SECONDS_BETWEEN_SAME, known: int = _MAX_KNOWN) -> None:
        self._seconds = seconds
        self._known = known
        self._last: dict[str, tuple[float, int]] = {}

    def pass_or_hold(self, key: str, now: float) -> int | None:
        """None: hold it back. Otherwise the number of those held back before it."""
        last = self._last.get(key)
        if last is not None and now - last[0] < self._seconds:
            self._last[key] = (last[0], last[1] + 1)
            return None
        held = 0 if last is None else self._last.pop(key)[1]
        if len(self._last) >= self._known:
            # The one that was let through longest ago: dictionaries keep their order.
            self._last.pop(next(iter(self._last)))
        self._last[key] = (now, 0)
        return held


class Bridge(logging.Handler):
    """Put on the libraries' loggers by `open`, taken off by `close`, which leaves them as they were."""

    def __init__(self, emit: Emit, monotonic: Callable[[], float], names: tuple[str, ...] = BRIDGED) -> None:
        super().__init__(level=logging.WARNING)
        self._emit = emit
        self._monotonic = monotonic
        self._names = names
        self._same = SameLines()
        self._before: dict[str, tuple[int, bool]] = {}

    def open(self) -> None:
        for name in self._names:
            logger = logging.getLogger(name)
            self._before[name] = (logger.level, logger.propagate)
            logger.setLevel(logging.WARNING)
            # Else the standard library's last resort would print the same line once more, unmasked.
            logger.propagate = False
            logger.addHandler(self)

    def close(self) -> None:
        for name, (level, propagate) in self._before.items():
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate
        self._before.clear()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        # asyncio's lines go on with the repr of the socket or task, which differs each time: the first line is the same.
        key = f"{record.name} {record.levelno} {message.partition(chr(10))[0][:200]} {type(error).__name__}"
        held = self._same.pass_or_hold(key, self._monotonic())
        if held is not None:
            self._emit(record.levelname, record.name, message, error, held)
