"""A table of what an engine's words mean: engines without error codes are understood by their sentences.

Each runtime has its own table (`runtimes/docker/errors.py`, `runtimes/proxmox/errors.py`); how it is read is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from flow_manager.errors import FlowManagerError

# Characters of an engine's own words that go into an error: some send whole pages.
MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class AboutCall:
    """What the call was about: goes into the error's details. A runtime adds what it alone knows."""

    id: str = ""
    name: str | None = None
    image: str | None = None
    operation: str | None = None


S = TypeVar("S", bound=AboutCall)


@dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """Words (a regular expression, in any case), and the error they make. `operations` narrows it to some verbs,
    `statuses` to some answers."""

    words: str
    make: Callable[[S, str], FlowManagerError]
    statuses: frozenset[int] = frozenset()
    operations: frozenset[str] = frozenset()

    def fits(self, subject: S, status: int, message: str) -> bool:
        return (
            (not self.statuses or status in self.statuses)
            and (not self.operations or subject.operation in self.operations)
            and re.search(self.words, message, re.IGNORECASE) is not None
        )


def decide(table: Iterable[Row[S]], subject: S, status: int, message: str) -> FlowManagerError:
    """The first row that fits decides; a table's last row fits everything."""
    row = next(row for row in table if row.fits(subject, status, message))
    return row.make(subject, message)
