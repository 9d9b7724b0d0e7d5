"""Output that fits a message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.contract.output import MAX_JSON, fitting, json_size
from flow_manager.util.strict_json import dumps_bytes, loads

MIB = 1024 * 1024
# aiohttp's default greatest message, which python-socketio's client has, too.
CLIENTS_LIMIT = 4 * MIB


@given(st.text())
def test_a_texts_size_is_that_of_its_json(text: str) -> None:
    assert json_size(text) == len(dumps_bytes(text)) - 2


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(min_value=0, max_value=500), st.booleans())
def test_what_fits_is_whole_and_what_does_not_is_a_beginning(out: bytes, err: bytes, limit: int, cut: bool) -> None:
    stdout, stderr, truncated = fitting(out, err, truncated=cut, limit=limit)
    assert json_size(stdout) + json_size(stderr) <= limit
    whole, _, _ = fitting(out, b"", truncated=cut, limit=10**9)
    assert whole.startswith(stdout)
    if not truncated:
        assert (stdout, stderr) == (out.decode(errors="replace"), err.decode(errors="replace"))


@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"\n", b'"', b"a", b"\x1b", "é".encode()])
def test_two_full_streams_of_anything_fit_what_every_client_takes(byte: bytes) -> None:
    full = (byte * MIB)[:MIB]
    stdout, stderr, _ = fitting(full, full, truncated=False)
    reply = dumps_bytes(
        {"error": False, "data": {"stdout": stdout, "stderr": stderr, "exit_code": 0, "truncated": True}}
    )
    assert len(reply) + 100 < CLIENTS_LIMIT
    assert loads(reply)["data"]["stdout"] == stdout


def test_ordinary_text_of_a_full_stream_is_whole() -> None:
    text = b"a line of output\n" * (MIB // 17)
    stdout, stderr, truncated = fitting(text, text, truncated=False)
    assert (len(stdout), len(stderr), truncated) == (len(text), len(text), False)


def test_one_stream_has_what_the_other_does_not_need() -> None:
    zeros = b"\0" * (MIB // 2)
    stdout, _, truncated = fitting(zeros, b"x", truncated=False)
    assert (len(stdout), truncated) == (MIB // 2, False)
    stdout, stderr, truncated = fitting(zeros, zeros, truncated=False)
    assert truncated and len(stdout) == len(stderr) == MAX_JSON // 2 // 6


def test_a_character_that_the_cap_cut_in_two_is_left_out() -> None:
    assert fitting("aé".encode()[:2], b"", truncated=True)[0] == "a"
    assert fitting("aé".encode()[:2], b"", truncated=False)[0] == "a\ufffd"


def test_what_it_gives_is_json_for_the_standard_library_too() -> None:
    stdout, _, _ = fitting(bytes(range(256)), b"", truncated=False)
    assert json.loads(dumps_bytes(stdout)) == stdout
