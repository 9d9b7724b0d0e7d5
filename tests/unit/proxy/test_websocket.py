"""Data frames are use, pings are not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.proxy.websocket import FrameScanner


def frame(opcode: int, payload: bytes = b"", *, masked: bool = False, fin: bool = True) -> bytes:
    first = bytes([(0x80 if fin else 0) | opcode])
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 65536:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return first + length + (b"abcd" if masked else b"") + payload


TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("masked", [False, True])
def test_a_data_frame_is_use(opcode: int, size: int, masked: bool) -> None:
    assert FrameScanner().feed(frame(opcode, b"x" * size, masked=masked))


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_is_not(opcode: int) -> None:
    scanner = FrameScanner()
    for _ in range(3):
        assert not scanner.feed(frame(opcode, b"\x01" * 100, masked=True))


def test_a_ping_whose_payload_looks_like_data_is_no_use() -> None:
    scanner = FrameScanner()
    raw = frame(PING, frame(TEXT, b"hello") * 5, masked=True)
    for byte in raw:
        assert not scanner.feed(bytes([byte]))
    assert scanner.feed(frame(TEXT, b"x"))


def test_the_rest_of_a_long_data_frame_is_use_too() -> None:
    scanner = FrameScanner()
    raw = frame(BINARY, b"\x89" * 1000)
    assert scanner.feed(raw[:500])
    assert scanner.feed(raw[500:900])
    assert scanner.feed(raw[900:])
    assert not scanner.feed(frame(PONG))


@given(
    frames=st.lists(
        st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.sampled_from([0, 1, 100, 126, 300]), st.booleans()),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 3000), max_size=10),
)
def test_however_it_is_cut_use_is_seen_when_and_only_when_there_is_some(
    frames: list[tuple[int, int, bool]], cuts: list[int]
) -> None:
    raw = b"".join(frame(opcode, b"\x81" * size, masked=masked) for opcode, size, masked in frames)
    scanner, used = FrameScanner(), False
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for start, end in itertools.pairwise(places):
        used = scanner.feed(raw[start:end]) or used
    assert used == any(opcode in (TEXT, BINARY) for opcode, _, _ in frames)
    # And it still knows where a frame begins.
    assert scanner.feed(frame(PING)) is False
    assert scanner.feed(frame(TEXT)) is True
