"""When a flow had written how much: a line for each look that found more, in `output.times`.

`<microseconds since 1970> <stdout> <stderr> <stdout's base> <stderr's base>`: bytes that the flow had written, and how many
of them were cut off the live file since. Past `MAX_MARKS` older ones are thinned out: times of old lines get coarser.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MAX_MARKS = 400


class Mark(NamedTuple):
    at: int = 0
    out: int = 0
    err: int = 0
    out_base: int = 0
    err_base: int = 0


class Marks:
    """Read when they are first needed. Lost ones (a full disk) cost accuracy alone, except the last, which has the bases."""

    def __init__(self, path: Path, *, maximum: int = MAX_MARKS) -> None:
        self._path = path
        self._maximum = maximum
        self._marks: list[Mark] | None = None

    @property
    def last(self) -> Mark:
        marks = self.all()
        return marks[-1] if marks else Mark()

    def all(self) -> list[Mark]:
        """Oldest first."""
        if self._marks is None:
            self._marks = self._load()
        return self._marks

    def add(self, mark: Mark) -> Mark:
        marks = self.all()
        marks.append(mark)
        try:
            if len(marks) > self._maximum:
                self._thin_out()
            else:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    os.write(descriptor, _line(mark))
                finally:
                    os.close(descriptor)
        except OSError:
            pass  # kept in memory: a disk that is full now may have room at the next look
        return mark

    def _thin_out(self) -> None:
        marks = self.all()
        recent = len(marks) // 4
        kept = [*marks[: len(marks) - recent : 2], *marks[len(marks) - recent :]]
        self._marks = kept
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(b"".join(map(_line, kept)))
        fresh.replace(self._path)

    def _load(self) -> list[Mark]:
        try:
            raw = self._path.read_bytes()
        except OSError:
            return []
        marks: list[Mark] = []
        for line in raw.split(b"\n"):
            numbers = line.split()
            # A half-written line (a crash) is no mark; neither is one that goes back.
            if len(numbers) == len(Mark._fields) and all(number.isdigit() for number in numbers):
                mark = Mark(*map(int, numbers))
                if not marks or (mark.out >= marks[-1].out and mark.err >= marks[-1].err):
                    marks.append(mark)
        return marks


def _line(mark: Mark) -> bytes:
    return b"%d %d %d %d %d\n" % mark
