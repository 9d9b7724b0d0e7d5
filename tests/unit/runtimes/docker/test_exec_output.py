"""Two outputs out of one stream."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.runtimes.capped import Capped
from flow_manager.runtimes.docker.exec_output import Demultiplexer

FRAMES = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40)), max_size=20)


@given(FRAMES, st.integers(min_value=1, max_value=9), st.integers(min_value=0, max_value=100))
def test_frames_of_any_length_in_any_pieces_come_out_whole(
    frames: list[tuple[int, bytes]], piece: int, limit: int
) -> None:
    wire = b"".join(struct.pack(">BxxxL", stream, len(data)) + data for stream, data in frames)
    output = Demultiplexer(limit)
    for start in range(0, len(wire), piece):
        output.feed(wire[start : start + piece])
    out = b"".join(data for stream, data in frames if stream < 2)
    err = b"".join(data for stream, data in frames if stream >= 2)
    assert (output.stdout.kept, output.stderr.kept) == (out[:limit], err[:limit])
    assert output.truncated == (len(out) > limit or len(err) > limit)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError):
        Demultiplexer(10).feed(b"HTTP/1.1 200 OK")


def test_of_what_is_fed_only_so_much_is_kept() -> None:
    kept = Capped(5)
    for _ in range(1000):
        kept.feed(b"abc")
    assert (kept.kept, kept.cut) == (b"abcab", True)
