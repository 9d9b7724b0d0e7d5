"""What every edge takes as JSON, and what it refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.util import strict_json
from flow_manager.util.strict_json import MAX_SAFE_INTEGER, JsonRefused

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_data_survives_there_and_back(value: Any) -> None:
    assert strict_json.loads(strict_json.dumps(value)) == value
    assert json.loads(strict_json.dumps_bytes(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e400",
        '"\\ud800"',
        "",
        "{",
        "{'a': 1}",
        "[1,]",
        "01",
        "\ufeff{}",
        "[" * 33 + "]" * 33,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 33 + "1" + "}" * 33,
        str(MAX_SAFE_INTEGER + 1),
        str(-MAX_SAFE_INTEGER - 1),
        "1" * 5000,
        '{"id": 12345678901234567890123}',
    ],
)
def test_what_no_client_could_read_back_is_refused(text: str) -> None:
    with pytest.raises(JsonRefused):
        strict_json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 33 + b'"' + b'\\"' * 20_000,  # a string without an end, in which each quote could begin one
        b"[" * 33 + b'"' * 20_001,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"-" * 100_000,
        b"[" + b"9" * 100_000 + b"]",
    ],
)
def test_text_that_is_made_to_take_long_is_refused_at_once(text: bytes) -> None:
    began = time.process_time()
    with pytest.raises(JsonRefused):
        strict_json.loads(text)
    assert time.process_time() - began < 1


def test_depth_is_that_of_the_deepest_place_however_many_brackets_there_are() -> None:
    flat = b"[" + b'{"[":[]},' * 1000 + b"1]"
    assert len(strict_json.loads(flat)) == 1001
    deep = b"[" * 31 + b'{"]":0}' + b"]" * 31
    assert strict_json.loads(deep)
    with pytest.raises(JsonRefused, match="32 levels"):
        strict_json.loads(b"[" + flat + b"," + b"[" + deep + b"]]")


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(JsonRefused):
        strict_json.loads(b'"\xff"')
    with pytest.raises(JsonRefused):
        strict_json.loads('"\ud800"')


@pytest.mark.parametrize(
    "text",
    [
        "[" * 32 + "]" * 32,
        '["' + "[" * 100 + '"]',
        '["\\"' + "{" * 100 + '"]',
        str(MAX_SAFE_INTEGER),
        "1.2345678901234567890",
        '"12345678901234567890"',
        "123456789012345678e5",
    ],
)
def test_what_only_looks_too_deep_or_too_large_is_taken(text: str) -> None:
    assert strict_json.loads(text) == json.loads(text)


def test_what_is_no_json_data_is_refused_on_the_way_out() -> None:
    for value in (object(), 2**70, "\ud800", {1: 2}):
        with pytest.raises(JsonRefused):
            strict_json.dumps(value)
