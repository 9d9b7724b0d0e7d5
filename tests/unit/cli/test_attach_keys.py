"""The detach keys, found in what is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.cli.attach import parse_keys
from flow_manager.cli.attached import Keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("CTRL-P", b"\x10"), ("~,.", b"~."), ("ctrl-]", b"\x1d"), ("none", b"")],
)
def test_keys_are_read(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-ab", "ab", "a,,b", "ü", "ctrl-1"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        parse_keys(text)


def test_the_keys_are_found_across_pieces_and_what_came_before_is_passed() -> None:
    keys = Keys(b"\x10\x11")
    assert (keys.passed(b"ls\x10"), keys.found) == (b"ls", False)
    assert (keys.passed(b"\x11rest"), keys.found) == (b"", True)


@given(st.lists(st.binary(max_size=6)), st.sampled_from([b"\x10\x11", b"aab", b"aa", b"abab"]))
def test_all_that_is_typed_before_the_keys_is_passed_and_nothing_else(pieces: list[bytes], wanted: bytes) -> None:
    keys, passed = Keys(wanted), b""
    for piece in pieces:
        passed += keys.passed(piece)
        if keys.found:
            break
    typed = b"".join(pieces)
    if keys.found:
        assert passed == typed[: typed.index(wanted)]
    else:
        assert wanted not in typed
        assert typed.startswith(passed) and len(typed) - len(passed) < len(wanted)


@given(st.text(alphabet="ab", max_size=12), st.sampled_from(["aab", "aa", "abab"]))
def test_keys_that_overlap_themselves_are_found_where_they_first_are(typed: str, wanted: str) -> None:
    keys = Keys(wanted.encode())
    passed = keys.passed(typed.encode()).decode()
    assert keys.found == (wanted in typed)
    if keys.found:
        assert passed == typed[: typed.index(wanted)]
