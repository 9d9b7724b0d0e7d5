"""The engine's bytes become lines, in whatever portions they come."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flow_manager.runtimes.docker.logs import LogReader, position_text, since_text
from flow_manager.runtimes.inside import LogLine
from flow_manager.runtimes.lines import MAX_LINE

FIRST = b"2026-01-19T10:30:00.000000001Z "
LATER = b"2026-01-19T10:30:01.123456789Z "
AT = 1_768_818_600 * 10**9


def chunk(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def read(raw: bytes, *, tty: bool = False, portion: int | None = None) -> list[LogLine]:
    reader = LogReader(tty=tty)
    portions = [raw] if portion is None else [raw[i : i + portion] for i in range(0, len(raw), portion)]
    return [line for part in portions for line in reader.feed(part)] + reader.rest()


@pytest.mark.parametrize("portion", [None, 1, 7])
def test_each_entry_is_a_line_with_its_stream_and_its_time(portion: int | None) -> None:
    raw = chunk(1, FIRST + b"one\n") + chunk(2, LATER + b"oops\n")
    one, oops = read(raw, portion=portion)
    assert one == LogLine("stdout", "one", datetime(2026, 1, 19, 10, 30, tzinfo=UTC), (AT + 1,))
    assert oops == LogLine("stderr", "oops", datetime(2026, 1, 19, 10, 30, 1, 123456, UTC), (AT + 10**9 + 123_456_789,))


@pytest.mark.parametrize("portion", [None, 1000])
def test_a_line_in_several_entries_is_joined_for_each_stream(portion: int | None) -> None:
    parts = (
        chunk(1, FIRST + b"a" * 16384)
        + chunk(2, LATER + b"err\n")
        + chunk(1, FIRST + b"b" * 16384)
        + chunk(1, FIRST + b"c\n")
    )
    assert [(line.stream, line.text) for line in read(parts, portion=portion)] == [
        ("stderr", "err"),
        ("stdout", "a" * 16384 + "b" * 16384 + "c"),
    ]


@pytest.mark.parametrize("portion", [None, 1, 5000])
def test_a_terminals_long_line_is_joined_too(portion: int | None) -> None:
    raw = FIRST + b"a" * 16384 + FIRST + b"b\r\n" + LATER + b"\x1b[31mred\x1b[0m\r\n"
    assert [line.text for line in read(raw, tty=True, portion=portion)] == ["a" * 16384 + "b", "\x1b[31mred\x1b[0m"]


@pytest.mark.parametrize("tty", [False, True])
def test_a_line_without_end_comes_in_pieces_and_fills_no_memory(tty: bool) -> None:
    reader = LogReader(tty=tty)
    lines: list[LogLine] = []
    for _ in range(20):
        entry = FIRST + "é".encode() * 8192
        lines += reader.feed(entry if tty else chunk(1, entry))
        assert len(reader._buffer) <= 2 * MAX_LINE
    lines += reader.rest()
    assert "".join(line.text for line in lines) == "é" * 8192 * 20
    assert max(len(line.text.encode()) for line in lines) <= MAX_LINE
    assert len(lines) >= 5


def test_what_was_not_ended_says_so() -> None:
    assert [(line.text, line.whole) for line in read(chunk(1, FIRST + b"a\n") + chunk(1, FIRST + b"half"))] == [
        ("a", True),
        ("half", False),
    ]


def test_what_is_no_text_is_marked_and_an_empty_line_is_a_line() -> None:
    assert [line.text for line in read(chunk(1, FIRST + b"caf\xe9\n") + chunk(1, FIRST + b"\n"))] == ["caf\ufffd", ""]


def test_an_entry_without_a_time_is_kept_without_one() -> None:
    (line,) = read(chunk(2, b"Error grabbing logs: gone\n"))
    assert line == LogLine("stderr", "Error grabbing logs: gone")


def test_other_engines_times_are_understood() -> None:
    (line,) = read(chunk(1, b"2026-01-19T11:30:00.5+01:00 x\n"))
    assert line.timestamp == datetime(2026, 1, 19, 10, 30, 0, 500_000, UTC)
    assert line.position == (AT + 500_000_000,)


def test_a_cut_answer_is_survived_and_garbage_refused() -> None:
    assert read(chunk(1, FIRST + b"abc\n")[:10]) == []
    assert read(b"") == []
    with pytest.raises(ValueError, match="header"):
        read(b"HTTP/1.1 500 Internal Server Error")


def test_times_are_asked_for_to_the_nanosecond() -> None:
    assert position_text(AT + 2) == "1768818600.000000002"
    assert since_text(datetime(2026, 1, 19, 10, 30, 0, 123456, UTC)) == "1768818600.123456000"
