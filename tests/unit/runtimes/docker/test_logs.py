from __future__ import annotations

from flow_manager.runtimes.docker.logs import lines_of


def chunk(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def test_chunks_are_not_lines() -> None:
    raw = chunk(1, b"one\ntw") + chunk(2, b"oops\n") + chunk(1, b"o\nthree")
    assert lines_of(raw, tty=False) == ["one", "oops", "two", "three"]


def test_a_terminals_output_has_no_headers() -> None:
    assert lines_of(b"one\r\ntwo\r\n", tty=True) == ["one", "two"]


def test_an_empty_line_is_a_line() -> None:
    assert lines_of(chunk(1, b"\n\na\n"), tty=False) == ["", "", "a"]


def test_a_cut_answer_and_bad_text_are_survived() -> None:
    assert lines_of(chunk(1, b"a\n") + b"\x01\x00", tty=False) == ["a"]
    assert lines_of(chunk(1, b"abc\n")[:10], tty=False) == ["ab"]
    assert lines_of(chunk(1, b"\xff\n"), tty=False) == ["\ufffd"]
    assert lines_of(b"", tty=False) == []
