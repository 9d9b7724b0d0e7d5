"""What a flow writes, in files: a pipe would end the flow by SIGPIPE when the manager dies.

The flow appends to `output.log` and `errors.log` itself. Past `MAX_BYTES` the manager keeps the last half in
`output.1.log` and empties the live file (appending goes on from its start): so a flow has at most some 15 MB, beside what
it writes between two looks, and what it writes in the microseconds between copy and cut is lost.

Nothing stands between the flow and the file, so times are the manager's: `look` notes how far each file had come, and
when (see `marks`). A line's time is that of the look that first saw it, at most as late as its file was last written to;
lines of both streams that came between two looks have no order, and standard output is shown first.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flow_manager.runtimes.inside import LogLine, LogPosition, LogStream
from flow_manager.runtimes.lines import MAX_LINE, cut, decoded
from flow_manager.runtimes.process.marks import Mark, Marks

NAMES: dict[LogStream, str] = {"stdout": "output", "stderr": "errors"}
MARKS = "output.times"
MAX_BYTES = 5 * 1024 * 1024
# What is read of each stream at most: for the last lines, and for the next ones of a follower.
MAX_READ = 1024 * 1024
STEP = 256 * 1024
# Lines made of them at a time: some 5 µs each, in which the event loop stands. One that only says "y" has two bytes.
STEP_LINES = 2000


@dataclass(slots=True)
class _Found:
    """Of one stream: lines with the offset behind each, and what is not a whole line yet."""

    lines: list[tuple[int, bytes]]
    half: bytes
    end: int
    cut_at_start: bool = False
    cut_at_end: bool = False


class Output:
    """The output files in a flow's folder. Offsets count from the first byte that the flow ever wrote."""

    def __init__(
        self,
        folder: Path,
        *,
        tty: bool = False,
        max_bytes: int = MAX_BYTES,
        max_read: int = MAX_READ,
        step: int = STEP,
    ) -> None:
        """`tty`: a terminal ends its lines with CR and LF."""
        self._line_end = b"\r" if tty else b""
        self._live = {stream: folder / f"{name}.log" for stream, name in NAMES.items()}
        self._earlier = {stream: folder / f"{name}.1.log" for stream, name in NAMES.items()}
        self._marks = Marks(folder / MARKS)
        self._max_bytes = max_bytes
        self._max_read = max_read
        self._step = max(step, 2 * MAX_LINE)

    def open_for_flow(self) -> tuple[int, int]:
        """Descriptors for the flow to append its output and its errors to; the caller closes them. :raises OSError:"""
        opened: list[int] = []
        try:
            for path in self._live.values():
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                opened.append(descriptor)
                # What the run before left without an end does not get this one's first line.
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) not in (b"\n", b""):
                    os.write(descriptor, b"\n")
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened[0], opened[1]

    def look(self) -> Mark:
        """Note how far the flow has come by now. :raises OSError:"""
        last = self._marks.last
        out, out_base, out_at = self._come(self._live["stdout"], last.out, last.out_base)
        err, err_base, err_at = self._come(self._live["stderr"], last.err, last.err_base)
        if (out, err) == (last.out, last.err):
            return last
        return self._marks.add(Mark(max(out_at, err_at, last.at), out, err, out_base, err_base))

    @staticmethod
    def _come(path: Path, before: int, base: int) -> tuple[int, int, int]:
        """How far a stream has come, its base, and when it was last written to where it came further (else 0)."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return before, base, 0
        if base + state.st_size < before:
            base = before  # it was cut, and the manager died before it noted that
        end = base + state.st_size
        return end, base, state.st_mtime_ns // 1000 if end > before else 0

    def trim(self) -> bool:
        """Look, and cut the files that grew past their bound. True when one was. :raises OSError: (a full disk)"""
        self.look()
        trimmed = False
        for stream in NAMES:
            try:
                size = self._live[stream].stat().st_size
            except FileNotFoundError:
                continue
            if size > self._max_bytes:
                self._cut(stream)
                trimmed = True
        return trimmed

    def tail(self, lines: int, *, ended: bool = True) -> list[LogLine]:
        """The last lines, oldest first. At most `max_read` bytes of each stream are looked at. `ended`: the flow does not
        run, and what it did not end is a line, too. :raises OSError:"""
        if lines <= 0:
            return []
        mark = self.look()
        begin = (max(0, mark.out - self._max_read), max(0, mark.err - self._max_read))
        found, _more = self._between(
            begin, mark, limit=self._max_read, ended=ended, from_start=True, lines_of_each=lines + 1
        )
        return found[-lines:]

    def after(self, position: LogPosition, *, ended: bool) -> tuple[list[LogLine], bool]:
        """The next lines behind that place, and whether there are more at once. :raises OSError:"""
        begin = (position[0], position[1]) if len(position) == 2 else (0, 0)
        mark = self.look()
        if begin[0] >= mark.out and begin[1] >= mark.err:
            return [], False
        found, more = self._between(begin, mark, limit=self._step, ended=ended)
        return [line for line in found if line.whole], more

    # --- inside -------------------------------------------------------------------------------------------------------

    def _between(
        self,
        begin: tuple[int, int],
        mark: Mark,
        *,
        limit: int,
        ended: bool,
        from_start: bool = False,
        lines_of_each: int = STEP_LINES,
    ) -> tuple[list[LogLine], bool]:
        """`from_start`: the last ones, else the first ones; `lines_of_each` stream at most."""
        out = self._read("stdout", begin[0], mark.out, mark.out_base, limit, lines_of_each, last=from_start)
        err = self._read("stderr", begin[1], mark.err, mark.err_base, limit, lines_of_each, last=from_start)
        marks = self._marks.all()
        ends = {"stdout": [one.out for one in marks], "stderr": [one.err for one in marks]}
        merged = []
        for order, (stream, part) in enumerate((("stdout", out), ("stderr", err))):
            known = ends[stream]
            merged += [(bisect_left(known, end), order, end, raw) for end, raw in part.lines]
            if part.half and ended and not part.cut_at_end:
                # It has no newline, and gets one when the flow is started again.
                merged.append((bisect_left(known, part.end), order, part.end + 1, part.half))
        merged.sort(key=lambda line: line[:3])
        merged = _comparable(merged, (out, err), from_start=from_start)
        here = [begin[0], begin[1]]
        lines: list[LogLine] = []
        for interval, order, end, raw in merged:
            here[order] = end
            at = marks[min(interval, len(marks) - 1)].at if marks else None
            when = datetime.fromtimestamp(at / 1_000_000, UTC) if at else None
            lines.append(LogLine("stderr" if order else "stdout", self._text(raw), when, (here[0], here[1])))
        if not ended:
            for order, part in enumerate((out, err)):
                if part.half and not part.cut_at_end:
                    when = datetime.fromtimestamp(mark.at / 1_000_000, UTC)
                    half = LogLine(
                        "stderr" if order else "stdout", self._text(part.half), when, (here[0], here[1]), False
                    )
                    lines.append(half)
        return lines, out.cut_at_end or err.cut_at_end

    def _read(
        self, stream: LogStream, begin: int, end: int, base: int, limit: int, lines: int, *, last: bool
    ) -> _Found:
        """What lies between two offsets, as far as it is still there, and at most `limit` bytes of it, and the `last` or the
        first `lines` of those."""
        in_middle = last and begin > 0
        begin = min(begin, end)
        raw, begin_found = b"", begin
        if begin < base:
            earlier = self._earlier[stream]
            kept = earlier.stat().st_size if earlier.exists() else 0
            begin_found = max(begin, base - kept)
            raw = _part(earlier, begin_found - (base - kept), min(limit, base - begin_found))
        if len(raw) < limit and end > base:
            raw += _part(
                self._live[stream], max(0, begin_found - base), min(limit - len(raw), end - max(base, begin_found))
            )
        found = _Found([], b"", begin_found + len(raw), cut_at_start=begin_found > begin or in_middle)
        found.cut_at_end = found.end < end and len(raw) >= limit
        place = 0
        if in_middle:
            # Only what follows the first newline is known to be whole.
            place = raw.find(b"\n") + 1
        if last and (later := _begin_of_last(raw, lines)) > place:
            place, found.cut_at_start = later, True
        while (newline := raw.find(b"\n", place)) >= 0:
            place = _add_pieces(found.lines, raw, place, newline, begin_found)
            found.lines.append((begin_found + newline + 1, raw[place:newline]))
            place = newline + 1
            if not last and len(found.lines) >= lines:
                found.end, found.cut_at_end = begin_found + place, found.cut_at_end or begin_found + place < end
                return found
        place = _add_pieces(found.lines, raw, place, len(raw), begin_found)
        found.half = raw[place:]
        return found

    def _text(self, raw: bytes) -> str:
        return _text(raw.removesuffix(self._line_end))

    def _cut(self, stream: LogStream) -> None:
        mark = self.look()
        live, earlier = self._live[stream], self._earlier[stream]
        size = live.stat().st_size
        keep = self._max_bytes // 2
        kept = _part(live, max(0, size - keep), keep)
        # The kept part ends where the cut is: how long it is tells where it begins.
        kept = kept[kept.find(b"\n") + 1 :]
        fresh = earlier.with_suffix(".new")
        try:
            fresh.write_bytes(kept)
            fresh.replace(earlier)
        except OSError:
            # No room to keep anything: the bound counts for more, else this flow fills the disk for all.
            fresh.unlink(missing_ok=True)
            earlier.unlink(missing_ok=True)
        os.truncate(live, 0)
        base = (mark.out_base if stream == "stdout" else mark.err_base) + size
        ends = (max(mark.out, base), mark.err, base, mark.err_base)
        if stream == "stderr":
            ends = (mark.out, max(mark.err, base), mark.out_base, base)
        self._marks.add(Mark(mark.at, *ends))


def _comparable(
    merged: list[tuple[int, int, int, bytes]], parts: tuple[_Found, _Found], *, from_start: bool
) -> list[tuple[int, int, int, bytes]]:
    """Without what lies before or behind the part that was read of the other stream: there order would be a guess."""
    first = None
    if from_start:
        first = max((_first(merged, order) for order, part in enumerate(parts) if part.cut_at_start), default=None)
    last = min((_last(merged, order) for order, part in enumerate(parts) if part.cut_at_end), default=None)
    return [
        line for line in merged if (first is None or line[:2] >= first) and (last is None or line[:2] <= last)
    ]  # fmt: skip


def _first(merged: list[tuple[int, int, int, bytes]], order: int) -> tuple[int, int]:
    return next((line[0], 0) for line in [*merged, (-1, order, 0, b"")] if line[1] == order)


def _last(merged: list[tuple[int, int, int, bytes]], order: int) -> tuple[int, int]:
    return max(((line[0], order) for line in merged if line[1] == order), default=(-1, -1))


def _begin_of_last(raw: bytes, lines: int) -> int:
    """Where the last so many lines begin."""
    place = len(raw)
    for _ in range(lines + 1):
        place = raw.rfind(b"\n", 0, place)
        if place < 0:
            break
    return place + 1


def _add_pieces(lines: list[tuple[int, bytes]], raw: bytes, place: int, end: int, begin: int) -> int:
    """Hand on a long line in pieces; where its last piece begins."""
    while end - place > MAX_LINE:
        size = cut(raw[place : place + MAX_LINE + 1])
        lines.append((begin + place + size, raw[place : place + size]))
        place += size
    return place


def _text(raw: bytes) -> str:
    # A flow that writes without appending leaves a hole of NULs after a cut.
    return decoded(raw.replace(b"\0", b"") if b"\0" in raw else raw)


def _part(path: Path, begin: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(size)
    except FileNotFoundError:
        return b""
