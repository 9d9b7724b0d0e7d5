"""Output files: bounded, readable from the end, whatever the flow writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flow_manager.runtimes.process.output import EARLIER, LIVE, Output


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path, max_bytes=1000, max_read=2000)


def write(output: Output, data: bytes) -> None:
    descriptor = output.open_for_flow()
    os.write(descriptor, data)
    os.close(descriptor)


def test_nothing_was_written(output: Output) -> None:
    assert output.tail(10) == []
    assert not output.trim()


def test_the_last_lines_oldest_first(output: Output) -> None:
    write(output, b"one\ntwo\n\nfour")
    assert output.tail(10) == ["one", "two", "", "four"]
    assert output.tail(2) == ["", "four"]
    assert output.tail(0) == []
    assert output.tail(-1) == []


def test_what_is_no_text_is_marked(output: Output) -> None:
    write(output, b"caf\xe9\n")
    assert output.tail(1) == ["caf�"]


def test_a_second_run_appends(output: Output) -> None:
    write(output, b"first\n")
    write(output, b"second\n")
    assert output.tail(9) == ["first", "second"]


def test_the_files_stay_bounded_and_the_end_is_kept(output: Output, tmp_path: Path) -> None:
    descriptor = output.open_for_flow()
    for number in range(1000):
        os.write(descriptor, b"line %04d\n" % number)
        output.trim()
        assert (tmp_path / LIVE).stat().st_size <= 1010
    os.close(descriptor)
    assert (tmp_path / EARLIER).stat().st_size <= 500
    lines = output.tail(60)
    assert lines[-1] == "line 0999"
    assert lines == [f"line {number:04d}" for number in range(1000 - len(lines), 1000)]
    assert len(lines) > 40


def test_a_line_without_end_fills_no_memory(output: Output) -> None:
    write(output, b"x" * 5000)
    assert [len(line) for line in output.tail(5)] == [2000]


def test_a_hole_left_by_one_who_does_not_append_is_not_shown(output: Output, tmp_path: Path) -> None:
    with (tmp_path / LIVE).open("wb") as file:
        file.seek(500)
        file.write(b"after the cut\n")
    assert output.tail(5) == ["after the cut"]


def test_without_room_to_keep_anything_the_bound_still_holds(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    write(output, b"x" * 1500)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert output.trim()
    assert (tmp_path / LIVE).stat().st_size == 0
