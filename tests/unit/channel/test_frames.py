"""The codec alone: what lines say, and how bytes become lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.channel import frames
from flow_manager.channel.frames import (
    Ack,
    ActorEvent,
    Busy,
    Hello,
    Idle,
    LineSplitter,
    Message,
    Ping,
    Pong,
    Ready,
    Refusal,
    Reply,
    parse,
)


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (b'{"type":"hello","contract":1,"acks":true,"token":"t"}', Hello(True)),
        (b'{"type":"hello"}', Hello(False)),
        (b'{"type":"ack","to":"m1"}', Ack("m1")),
        (b'{"type":"reply","to":"m1","body":{"a":1}}', Reply("m1", {"a": 1})),
        (b'{"type":"reply","to":"m1"}', Reply("m1", None)),
        (b'{"type":"message","id":"x","body":{"a":1}}', Message("x", {"a": 1})),
        (b'{"type":"message","id":7,"body":null}', Message(7, None)),
        (b'{"type":"message","body":[1]}', Message(None, [1])),
        (b'{"type":"actor_event","actor":"a","event":"e","details":{"k":1}}', ActorEvent("a", "e", {"k": 1})),
        (b'{"type":"actor_event","actor":"a","event":"e"}', ActorEvent("a", "e", {})),
        (b'{"type":"ready"}', Ready()),
        (b'{"type":"ready","later":"field"}', Ready()),
        (b'{"type":"busy","for":30,"reason":"r"}', Busy(30.0, "r")),
        (b'{"type":"busy","for":0.5}', Busy(0.5, None)),
        (b'{"type":"idle"}', Idle()),
        (b'{"type":"ping"}', Ping()),
        (b'{"type":"pong"}', Pong()),
        (b'{"temperature":21}', Message(None, {"temperature": 21})),
        (b"{}", Message(None, {})),
        (b'{"id":"x","body":1}', Message(None, {"id": "x", "body": 1})),
        (b'{"type":"ready"}\r', Ready()),
        (b'\xef\xbb\xbf{"type":"ready"}', Ready()),
        (b'  {"type":"ready"}  ', Ready()),
        (b"", None),
        (b" \t\r", None),
        (b"\xef\xbb\xbf", None),
    ],
)
def test_a_line_is_read_as_the_contract_says(line: bytes, frame: object) -> None:
    got = parse(line)
    assert got == frame
    assert type(got) is type(frame)


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1,2]",
        b'"text"',
        b"42",
        b"null",
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":9007199254740993}',
        b'{"a":"\xff\xfe"}',
        b'{"a":"\\ud800"}',
        b"\x00\x01\x02",
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"type":"ack"}',
        b'{"type":"ack","to":5}',
        b'{"type":"ack","to":""}',
        b'{"type":"reply","body":1}',
        b'{"type":"reply","to":"' + b"x" * 300 + b'"}',
        b'{"type":"message"}',
        b'{"type":"message","text":"hi"}',
        b'{"type":"message","id":{},"body":1}',
        b'{"type":"message","id":true,"body":1}',
        b'{"type":"hello","acks":"yes"}',
        b'{"type":"actor_event","actor":"a"}',
        b'{"type":"actor_event","actor":"a","event":"e","details":[1]}',
        b'{"type":"busy"}',
        b'{"type":"busy","for":0}',
        b'{"type":"busy","for":-1}',
        b'{"type":"busy","for":"30"}',
        b'{"type":"busy","for":true}',
        b'{"type":"busy","for":1,"reason":2}',
    ],
)
def test_a_line_that_is_no_frame_is_refused_as_bad(line: bytes) -> None:
    got = parse(line)
    assert isinstance(got, Refusal)
    assert got.code == "bad_frame"
    assert got.reason


@pytest.mark.parametrize("kind", ['"shout"', "5", "null", "[]", "{}", '"READY"', '""'])
def test_an_unknown_type_is_refused_as_such(kind: str) -> None:
    got = parse(b'{"type":%b}' % kind.encode())
    assert isinstance(got, Refusal)
    assert got.code == "unknown_type"


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    for line in (b"password=hunter2", b'{"type":"hunter2"}', b'{"type":"busy","for":"hunter2"}', b'{"a": hunter2}'):
        refusal = parse(line)
        assert isinstance(refusal, Refusal)
        assert "hunter2" not in refusal.reason


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise(line: bytes) -> None:
    parse(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(["to", "id", "body", "acks", "for", "reason", "actor", "event", "details", "contract"])
types = st.sampled_from(["hello", "ack", "reply", "message", "actor_event", "ready", "busy", "idle", "ping", "pong"])


@given(types, st.dictionaries(field_names, json_values))
def test_no_values_of_known_fields_make_the_parser_raise(kind: str, fields: dict[str, Any]) -> None:
    got = parse(json.dumps({**fields, "type": kind}).encode())
    assert got is not None
    if isinstance(got, Refusal):
        assert got.code == "bad_frame"
    if isinstance(got, Busy):
        assert 0 < got.seconds < float("inf")


# --- bytes to lines ---------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_whatever_pieces_they_come_in(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter(1000)
    got: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += splitter.feed(stream[:size])
        stream = stream[size:]
    assert got == lines
    assert splitter.partial == b"rest"
    assert not splitter.overflow


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(1, 40))
def test_never_more_than_the_limit_is_held_nor_given(pieces: list[bytes], limit: int) -> None:
    splitter = LineSplitter(limit)
    stream = b"".join(pieces)
    got: list[bytes] = []
    for piece in pieces:
        got += splitter.feed(piece)
        assert len(splitter.partial or b"") <= limit
    assert all(len(line) <= limit for line in got)
    whole = stream.split(b"\n")
    too_long = next((index for index, line in enumerate(whole) if len(line) > limit), None)
    assert splitter.overflow == (too_long is not None)
    assert got == (whole[:-1] if too_long is None else whole[:too_long])


def test_lines_before_one_that_is_too_long_are_still_given() -> None:
    splitter = LineSplitter(4)
    assert list(splitter.feed(b"ab\ncdefgh\nij\n")) == [b"ab"]
    assert splitter.overflow
    assert list(splitter.feed(b"kl\n")) == []


def test_a_line_of_a_megabyte_byte_by_byte_costs_no_more_than_its_length() -> None:
    splitter = LineSplitter(1_000_000)
    for _ in range(200_000):
        assert not splitter.feed(b"x")
    assert list(splitter.feed(b"\n")) == [b"x" * 200_000]


# --- to the flow ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (frames.encode_message("m-1", {"a": "ä\n"}), {"type": "message", "id": "m-1", "body": {"a": "ä\n"}}),
        (frames.encode_ack("x"), {"type": "ack", "to": "x"}),
        (frames.encode_ack(7), {"type": "ack", "to": 7}),
        (frames.encode_error("taken_over"), {"type": "error", "code": "taken_over"}),
        (frames.encode_error("c", "why", to="m"), {"type": "error", "code": "c", "to": "m", "reason": "why"}),
        (frames.encode_stopping(10.0), {"type": "stopping", "in": 10}),
        (frames.encode_stopping(0.5), {"type": "stopping", "in": 0.5}),
        (frames.PING, {"type": "ping"}),
        (frames.PONG, {"type": "pong"}),
    ],
)
def test_what_is_sent_is_one_line_of_the_contract(line: bytes, frame: dict[str, Any]) -> None:
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == frame


def test_a_messages_body_comes_last_so_that_a_shell_can_cut_it_out() -> None:
    assert frames.encode_message("m-1", {"a": 1}) == b'{"type":"message","id":"m-1","body":{"a":1}}\n'


def test_whole_seconds_are_written_without_a_fraction() -> None:
    assert b'"in":10}' in frames.encode_stopping(10.0)
