"""Output files: bounded, readable from the end and from any place, whatever the flow writes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flow_manager.runtimes.inside import LogLine, LogPosition
from flow_manager.runtimes.lines import MAX_LINE
from flow_manager.runtimes.process import output as output_module
from flow_manager.runtimes.process.output import MARKS, STEP_LINES, Output

LIVE, EARLIER = "output.log", "output.1.log"


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return small(tmp_path)


def small(folder: Path) -> Output:
    return Output(folder, max_bytes=1000, max_read=2000)


def write(output: Output, data: bytes, errors: bytes = b"") -> None:
    descriptors = output.open_for_flow()
    for descriptor, part in zip(descriptors, (data, errors), strict=True):
        os.write(descriptor, part)
        os.close(descriptor)


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def follow(output: Output, position: LogPosition = (), *, ended: bool = False) -> list[LogLine]:
    """All that there is behind a place."""
    lines: list[LogLine] = []
    more = True
    while more:
        found, more = output.after(lines[-1].position if lines else position, ended=ended)
        lines += found
    return lines


def test_nothing_was_written(output: Output) -> None:
    assert output.tail(10) == []
    assert not output.trim()
    assert follow(output) == []


def test_the_last_lines_oldest_first(output: Output) -> None:
    write(output, b"one\ntwo\n\nfour")
    assert texts(output.tail(10)) == ["one", "two", "", "four"]
    assert texts(output.tail(2)) == ["", "four"]
    assert output.tail(0) == []
    assert output.tail(-1) == []


def test_what_is_no_text_is_marked(output: Output) -> None:
    write(output, b"caf\xe9\n")
    assert texts(output.tail(1)) == ["caf\ufffd"]


def test_a_second_run_appends_and_begins_a_line_of_its_own(output: Output) -> None:
    write(output, b"first\nhalf")
    followed = follow(output, ended=True)
    write(output, b"second\n")
    assert texts(output.tail(9)) == ["first", "half", "second"]
    assert texts(follow(output, followed[-1].position)) == ["second"]
    assert texts(followed) == ["first", "half"]


def test_half_a_line_is_shown_and_not_followed(output: Output) -> None:
    write(output, b"whole\nhal")
    assert [(line.text, line.whole) for line in output.tail(9, ended=False)] == [("whole", True), ("hal", False)]
    followed = follow(output)
    assert texts(followed) == ["whole"]
    with (output._live["stdout"]).open("ab") as file:
        file.write(b"f\n")
    assert texts(follow(output, followed[-1].position)) == ["half"]


def test_streams_are_known_and_in_the_order_of_the_looks(output: Output) -> None:
    write(output, b"out 1\n")
    output.look()
    write(output, b"", b"err 1\n")
    output.look()
    write(output, b"out 2\n", b"err 2\n")
    expected = [("stdout", "out 1"), ("stderr", "err 1"), ("stdout", "out 2"), ("stderr", "err 2")]
    lines = output.tail(9)
    assert [(line.stream, line.text) for line in lines] == expected
    for number, line in enumerate(lines):
        assert follow(output, line.position) == lines[number + 1 :]


def test_a_line_keeps_the_time_at_which_it_was_seen(output: Output, tmp_path: Path) -> None:
    write(output, b"old\n")
    os.utime(tmp_path / LIVE, ns=(0, 1_000_000_000_000_000_000))
    output.look()
    write(output, b"new\n")
    os.utime(tmp_path / LIVE, ns=(0, 1_500_000_000_000_000_000))
    expected = [datetime.fromtimestamp(10**9, UTC), datetime.fromtimestamp(1_500_000_000, UTC)]
    assert [line.timestamp for line in output.tail(9)] == expected
    assert [line.timestamp for line in small(tmp_path).tail(9)] == expected


def test_files_of_an_earlier_version_are_readable(tmp_path: Path) -> None:
    (tmp_path / EARLIER).write_bytes(b"zero\n")
    (tmp_path / LIVE).write_bytes(b"one\ntwo\n")
    assert texts(small(tmp_path).tail(9))[-2:] == ["one", "two"]


def test_the_files_stay_bounded_and_the_end_is_kept(output: Output, tmp_path: Path) -> None:
    descriptors = output.open_for_flow()
    for number in range(1000):
        os.write(descriptors[0], b"line %04d\n" % number)
        output.trim()
        assert (tmp_path / LIVE).stat().st_size <= 1010
    for descriptor in descriptors:
        os.close(descriptor)
    assert (tmp_path / EARLIER).stat().st_size <= 500
    assert len((tmp_path / MARKS).read_bytes()) < 30_000
    lines = texts(output.tail(60))
    assert lines == [f"line {number:04d}" for number in range(1000 - len(lines), 1000)]
    assert len(lines) > 40


def test_a_follower_misses_nothing_when_the_files_are_cut(output: Output, tmp_path: Path) -> None:
    descriptors = output.open_for_flow()
    seen: list[LogLine] = []
    for number in range(600):
        os.write(descriptors[number % 2], b"line %04d\n" % number)
        output.trim()
        if number % 7 == 0:
            seen += follow(output, seen[-1].position if seen else ())
        if number % 100 == 0:
            output = small(tmp_path)  # as after a restart of the manager
    for descriptor in descriptors:
        os.close(descriptor)
    seen += follow(output, seen[-1].position)
    assert texts(seen) == [f"line {number:04d}" for number in range(600)]


def test_a_follower_that_is_too_late_goes_on_with_what_is_left(output: Output) -> None:
    write(output, b"first\n")
    place = follow(output)[-1].position
    for number in range(500):
        write(output, b"line %04d\n" % number)
        output.trim()
    late = texts(follow(output, place))
    assert late == [f"line {number:04d}" for number in range(500 - len(late), 500)]
    assert 0 < len(late) < 500


def test_a_cut_that_nobody_noted_is_noticed(output: Output, tmp_path: Path) -> None:
    write(output, b"before\n")
    place = follow(output)[-1].position
    os.truncate(tmp_path / LIVE, 0)
    write(output, b"new\n")
    assert texts(follow(small(tmp_path), place)) == ["new"]


def test_a_very_long_line_comes_in_pieces_also_to_a_follower(tmp_path: Path) -> None:
    output = Output(tmp_path)
    write(output, "é".encode() * 200_000 + b"\nafter\n", b"oops\n")
    lines = follow(output)
    assert "".join(line.text for line in lines if line.stream == "stdout") == "é" * 200_000 + "after"
    assert max(len(line.text.encode()) for line in lines) <= MAX_LINE
    assert output.tail(100) == lines


def test_the_hole_of_a_flow_that_does_not_append_is_left_out(output: Output, tmp_path: Path) -> None:
    (tmp_path / LIVE).write_bytes(b"\0" * 100 + b"after\n")
    assert texts(output.tail(9)) == ["after"]


def test_a_line_without_end_fills_no_memory(output: Output) -> None:
    write(output, b"x" * 5000)
    assert sum(len(line.text) for line in output.tail(5)) <= 2000


def test_without_room_to_keep_anything_the_bound_still_holds(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    write(output, b"x" * 1500)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert output.trim()
    assert (tmp_path / LIVE).stat().st_size == 0
    assert output.tail(5) == []


def test_of_a_flood_of_short_lines_only_what_is_wanted_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    plain = output_module._text
    monkeypatch.setattr(output_module, "_text", lambda raw: made.append(raw) or plain(raw))
    flood = Output(tmp_path)
    count = 3 * STEP_LINES
    write(flood, b"".join(b"%d\n" % n for n in range(count)) + b"half", b"early\n")
    assert texts(flood.tail(3)) == [f"{count - 1}", "half", "early"]
    assert len(made) < 20

    made.clear()
    lines, more = flood.after((), ended=False)
    assert more
    assert len(made) <= STEP_LINES + 1
    seen = texts(lines)
    while more:
        lines, more = flood.after(lines[-1].position, ended=False)
        seen += texts(lines)
    assert sorted(seen) == sorted([*(str(n) for n in range(count)), "early"])


def test_the_last_lines_of_two_full_streams_are_the_last(tmp_path: Path) -> None:
    both = Output(tmp_path)
    for n in range(50):
        write(both, b"out %d\n" % n, b"err %d\n" % n)
        both.look()
    assert texts(both.tail(5)) == ["err 47", "out 48", "err 48", "out 49", "err 49"]
    assert texts(both.tail(99))[0] == "err 0"
    assert texts(both.tail(1000))[:2] == ["out 0", "err 0"]
