from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.observability.lines import Format, clean, line_of, trace_of

AT = datetime(2026, 1, 19, 11, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1)))


def line(style: Format = "text", *, trace: str | None = None, **fields: Any) -> str:
    return line_of(style, at=AT, level="INFO", message="container operation", fields=fields, trace=trace)


def test_text_is_time_level_message_and_fields() -> None:
    assert line(container="abc", duration=0.1234567, exit_code=3, actor=None, ok=True) == (
        "2026-01-19T10:30:00.123Z INFO    container operation container=abc duration=0.123457 exit_code=3 ok=true"
    )


def test_values_that_would_read_as_more_fields_are_quoted() -> None:
    assert line(a="x y", b='say "hi"', c="n=1", d="").endswith(r'a="x y" b="say \"hi\"" c="n=1" d=""')


def test_json_is_one_object_with_the_fields_beside_the_message() -> None:
    record = json.loads(line("json", container="abc", duration=0.5, actor=None))
    assert record == {
        "time": "2026-01-19T10:30:00.123Z",
        "level": "INFO",
        "message": "container operation",
        "container": "abc",
        "duration": 0.5,
    }


def test_what_a_terminal_or_a_reader_of_lines_would_obey_is_escaped() -> None:
    assert clean("a\nb\r\tc\x1b[31m\x00\x7f\x85\x9b\u2028\u2029\u202e") == (
        r"a\nb\r\tc\x1b[31m\x00\x7f\x85\x9b\u2028\u2029\u202e"
    )
    assert clean("ünïcode 漢字 \ud800") == "ünïcode 漢字 \ufffd"


@pytest.mark.parametrize("style", ["text", "json"])
@given(text=st.text() | st.text(st.sampled_from("\n\r\x1b\u2028\u2029\x85\x0b\x0c\x1c\ud800{}\"'=\\ ")))
def test_no_text_ever_makes_a_second_line(style: Format, text: str) -> None:
    made = line_of(style, at=AT, level="INFO", message=text, fields={"reason": text, text: text})
    assert made.splitlines() == [made]
    assert "\x1b" not in made
    made.encode()


def test_a_trace_in_text_stands_on_marked_lines_and_in_json_in_a_list() -> None:
    text = line(trace="Traceback:\n  x\x1b\nValueError: a\n2026-01-19 forged")
    assert text.split("\n")[1:] == [
        "    | Traceback:",
        "    |   x\\x1b",
        "    | ValueError: a",
        "    | 2026-01-19 forged",
    ]
    assert json.loads(line("json", trace="a\nb"))["trace"] == ["a", "b"]


def test_a_trace_has_no_values_of_variables() -> None:
    def fail(password: str) -> None:
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed") as caught:
        fail("hunter" + "22")
    trace = trace_of(caught.value)
    assert trace is not None and "ValueError: it failed" in trace and "hunter22" not in trace
    assert trace_of(None) is None


def test_an_endless_trace_and_an_endless_field_are_cut() -> None:
    trace = trace_of(ValueError("x" * 100_000))
    assert trace is not None and len(trace) < 20_000
    assert len(line(reason="x" * 100_000)) < 5_000


def test_odd_values_are_written_as_text() -> None:
    fields = {
        "big": 2**70,
        "nan": float("nan"),
        "inf": float("inf"),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "none": None,
    }
    record = json.loads(line("json", **fields))
    assert record["big"] == str(2**70) and record["at"] == "2026-01-01 00:00:00+00:00" and "none" not in record
