from __future__ import annotations

import io
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from flow_manager.observability.writer import FileOutput, LineWriter, StreamOutput


class Held:
    """An output whose reader stopped reading."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.writing = threading.Event()
        self.may_write = threading.Event()

    def write(self, lines: Sequence[str]) -> None:
        self.writing.set()
        assert self.may_write.wait(10)
        self.lines += lines

    def close(self) -> None:
        self.lines.append("closed")


def writer_to(*outputs: object, **limits: int) -> LineWriter:
    made = LineWriter(outputs, say_dropped=lambda count: f"{count} dropped", **limits)  # type: ignore[arg-type]
    made.open()
    return made


def put(writer: LineWriter, text: str, *, important: bool = False) -> None:
    writer.put(lambda: text, important=important)


def test_lines_come_in_order_and_are_all_there_after_close() -> None:
    out = io.StringIO()
    writer = writer_to(StreamOutput(out))
    for n in range(1000):
        put(writer, str(n))
    assert writer.close()
    assert out.getvalue().splitlines() == [str(n) for n in range(1000)]


def test_a_blocked_output_blocks_nobody_drops_small_talk_first_and_says_how_much() -> None:
    held = Held()
    writer = writer_to(held, max_waiting=3, max_waiting_important=5)
    put(writer, "in the write")
    assert held.writing.wait(10)
    for n in range(10):
        put(writer, f"small {n}")
    for n in range(10):
        put(writer, f"important {n}", important=True)
    held.may_write.set()
    assert writer.close()
    assert held.lines == [
        "in the write", "small 0", "small 1", "small 2", "important 0", "important 1", "15 dropped", "closed",
    ]  # fmt: skip


def test_closing_does_not_wait_for_a_reader_that_never_reads() -> None:
    held = Held()
    writer = writer_to(held)
    put(writer, "x")
    assert held.writing.wait(10)
    assert writer.close(timeout=0.05) is False
    held.may_write.set()
    assert writer.close() is True


def test_what_is_put_after_close_is_dropped() -> None:
    out = io.StringIO()
    writer = writer_to(StreamOutput(out))
    writer.close()
    put(writer, "late")
    assert out.getvalue() == ""


def test_an_output_that_fails_costs_its_lines_not_the_others() -> None:
    out, broken = io.StringIO(), io.StringIO()
    broken.close()
    writer = writer_to(StreamOutput(broken), StreamOutput(out))
    put(writer, "a")
    assert writer.close()
    assert out.getvalue() == "a\n"


def test_a_line_that_cannot_be_made_is_told_and_the_next_ones_come() -> None:
    out = io.StringIO()
    writer = writer_to(StreamOutput(out))
    writer.put(lambda: str(1 / 0), important=False)
    put(writer, "next")
    writer.close()
    assert out.getvalue() == "a log line could not be made: ZeroDivisionError\nnext\n"


def test_a_file_is_rotated_by_size_private_and_bounded_in_number(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "flow.log"
    output = FileOutput(path, max_bytes=100, files=3)
    for n in range(50):
        output.write([f"line {n:03} " + "x" * 20])
    output.close()
    files = sorted(path.parent.iterdir())
    assert [item.name for item in files] == ["flow.log", "flow.log.1", "flow.log.2"]
    assert {stat.S_IMODE(item.stat().st_mode) for item in files} == {0o600}
    assert all(item.stat().st_size <= 100 for item in files)
    assert path.read_text().endswith("line 049 " + "x" * 20 + "\n")


def test_a_file_is_gone_on_with_not_begun_anew(tmp_path: Path) -> None:
    for text in ("one", "two"):
        output = FileOutput(tmp_path / "flow.log")
        output.write([text])
        output.close()
    assert (tmp_path / "flow.log").read_text() == "one\ntwo\n"


def test_a_full_disk_raises_instead_of_printing_a_trace_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = FileOutput(Path("/dev/full"))
    with pytest.raises(OSError, match="No space"):
        output.write(["x"])
    output.close()
    assert capsys.readouterr().err == ""
