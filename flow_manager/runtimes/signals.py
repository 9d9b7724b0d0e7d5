"""Signals by name, as clients write them: `SIGTERM`, `TERM`, `RTMIN+3`."""

from __future__ import annotations

import re
import signal

from flow_manager.errors import InvalidRequest

KILLED_BY_SIGNAL = 128
"""A process that signal n ended has exit code 128 + n: the words of shells and of Docker."""
_REAL_TIME = re.compile(r"RT(?P<base>MIN|MAX)(?P<offset>[+-][0-9]{1,2})?\Z")


def signal_number(name: str) -> int:
    """The number of a signal that this system knows.

    :raises InvalidRequest: it knows none of that name.
    """
    short = name.upper().removeprefix("SIG")
    if match := _REAL_TIME.match(short):
        number = int(signal.SIGRTMIN if match["base"] == "MIN" else signal.SIGRTMAX) + int(match["offset"] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    elif f"SIG{short}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{short}"])
    raise InvalidRequest(
        f"there is no signal {name[:32]!r}", fields=[{"path": "signal", "reason": "not a signal's name"}]
    )
