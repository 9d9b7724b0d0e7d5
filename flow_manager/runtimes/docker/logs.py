"""What a flow wrote: the engine's bytes → lines. Pure, and fed in whatever portions they come.

Without a terminal each entry has a header of eight bytes: stream, three zeros, length as big-endian uint32 (Docker Engine
API, `ContainerAttach`, "Stream format"); with one, entries follow each other bare. Each begins with its time stamp (asked
for with `timestamps=1`; nine digits, UTC) and a blank. A line of more than 16 KiB comes in several entries that all have
the first one's stamp, and only the last one ends with a newline (moby, daemon/logger/copier.go).
"""

from __future__ import annotations

from datetime import UTC, datetime

from flow_manager.runtimes.docker.observe import parse_time
from flow_manager.runtimes.inside import LogLine, LogStream
from flow_manager.runtimes.lines import MAX_LINE, cut, decoded

HEADER = 8
# Entries have 16 KiB and a stamp. Whatever says more is no header, and must not make us wait for it.
MAX_ENTRY = 4 * 1024 * 1024
STAMP = len("2026-01-19T10:30:00.123456789Z")
SECOND = len("2026-01-19T10:30:00")
NANOSECONDS = 10**9


class LogReader:
    """`feed` what comes, and `rest` at the end. `entries` counts the engine's own, of which a long line has several."""

    def __init__(self, *, tty: bool) -> None:
        self.entries = 0
        self._tty = tty
        self._buffer = bytearray()
        # Lines that have not ended: their stamp, and what there is of them.
        self._begun: dict[LogStream, tuple[bytes, bytearray]] = {}
        self._second = b""
        self._base = datetime(1970, 1, 1, tzinfo=UTC)
        self._base_nanoseconds = 0

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that ended with these bytes. :raises ValueError: they are no log."""
        self._buffer += data
        lines: list[LogLine] = []
        if self._tty:
            self._take_bare(lines)
        else:
            self._take_framed(lines)
        return lines

    def rest(self) -> list[LogLine]:
        """Lines without an end. Their place is before them: the rest of such a line has its own stamp again."""
        lines: list[LogLine] = []
        if self._tty and self._buffer:
            self._entry("stdout", bytes(self._buffer), lines)
        for stream, (stamp, text) in self._begun.items():
            line = self._line(stream, stamp, bytes(text))
            lines.append(line._replace(whole=False, position=tuple(place - 1 for place in line.position)))
        self._begun.clear()
        self._buffer.clear()
        return lines

    def _take_framed(self, lines: list[LogLine]) -> None:
        buffer, position, size = self._buffer, 0, len(self._buffer)
        while position + HEADER <= size:
            length = int.from_bytes(buffer[position + 4 : position + HEADER], "big")
            if length > MAX_ENTRY:
                raise ValueError("not a log's header")
            end = position + HEADER + length
            if end > size:
                break
            stream: LogStream = "stdout" if buffer[position] in (0, 1) else "stderr"
            self._entry(stream, bytes(buffer[position + HEADER : end]), lines)
            position = end
        del buffer[:position]

    def _take_bare(self, lines: list[LogLine]) -> None:
        whole, newline, _half = self._buffer.rpartition(b"\n")
        if newline:
            del self._buffer[: len(whole) + 1]
            for raw in bytes(whole).split(b"\n"):
                # Inside a long line the stamp stands again where the engine's next entry began.
                stamp, text = raw[: STAMP + 1], raw[STAMP + 1 :]
                self._entry("stdout", stamp + text.replace(stamp, b"") + b"\n", lines)
        while len(self._buffer) > MAX_LINE + 3 * STAMP:
            # A line without end is handed on in parts. What may be half a stamp at its end stays with what follows.
            stamp = bytes(self._buffer[: STAMP + 1])
            text = bytes(self._buffer[STAMP + 1 :]).replace(stamp, b"")
            place = cut(text) if len(text) > MAX_LINE + STAMP else 0
            if place:
                lines.append(self._line("stdout", stamp.rstrip(), text[:place]))
            self._buffer = bytearray(stamp + text[place:])
            if not place:
                break

    def _entry(self, stream: LogStream, raw: bytes, lines: list[LogLine]) -> None:
        self.entries += 1
        stamp, blank, text = raw.partition(b" ")
        if not blank or not stamp[:1].isdigit():
            stamp, text = b"", raw  # the engine's own words, when it can't read its log any more
        begun = self._begun
        if text.endswith(b"\n"):
            text = text[:-2] if self._tty and text.endswith(b"\r\n") else text[:-1]
            if not begun or stream not in begun:
                if len(text) <= MAX_LINE:
                    lines.append(self._line(stream, stamp, text))
                    return
                begun[stream] = (stamp, bytearray())
            stamp, before = begun.pop(stream)
            before += text
            self._give_pieces(stream, stamp, before, lines)
            lines.append(self._line(stream, stamp, bytes(before)))
        else:
            stamp, before = begun.setdefault(stream, (stamp, bytearray()))
            before += text
            self._give_pieces(stream, stamp, before, lines)

    def _give_pieces(self, stream: LogStream, stamp: bytes, text: bytearray, lines: list[LogLine]) -> None:
        while len(text) > MAX_LINE:
            place = cut(text)
            lines.append(self._line(stream, stamp, bytes(text[:place])))
            del text[:place]

    def _line(self, stream: LogStream, stamp: bytes, text: bytes) -> LogLine:
        if len(stamp) == STAMP and stamp.endswith(b"Z"):
            # Lines come by the thousand a second: the calendar is asked once for each second.
            if stamp[:SECOND] != self._second:
                parsed = parse_time(stamp[:SECOND].decode("ascii", "replace") + "Z")
                if parsed is None:
                    return LogLine(stream, decoded(text))
                self._second, self._base = stamp[:SECOND], parsed
                self._base_nanoseconds = int(parsed.timestamp()) * NANOSECONDS
            fraction = stamp[SECOND + 1 : STAMP - 1]
            if fraction.isdigit():
                nanoseconds = int(fraction)
                at = self._base.replace(microsecond=nanoseconds // 1000)
                return LogLine(stream, decoded(text), at, (self._base_nanoseconds + nanoseconds,))
        at_any = parse_time(stamp.decode("ascii", "replace"))
        if at_any is None:
            return LogLine(stream, decoded(text))
        return LogLine(stream, decoded(text), at_any, (_nanoseconds(at_any),))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * NANOSECONDS + at.microsecond * 1000


def since_text(at: datetime) -> str:
    """For the query: seconds, with nine digits behind the point; what is of that moment itself is included."""
    return position_text(_nanoseconds(at))


def position_text(nanoseconds: int) -> str:
    return f"{nanoseconds // NANOSECONDS}.{nanoseconds % NANOSECONDS:09d}"
