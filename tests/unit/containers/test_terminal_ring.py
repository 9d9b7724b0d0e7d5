"""The end of what a terminal wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flow_manager.containers.terminal_ring import PIECE, Ring


@given(st.lists(st.binary(max_size=3 * PIECE // 2), max_size=12), st.integers(1, 3))
def test_what_is_kept_is_the_end_of_what_was_written_at_its_offset(writes: list[bytes], pieces: int) -> None:
    ring, written = Ring(pieces * PIECE), b""
    for data in writes:
        ring.append(data)
        written += data
    assert ring.end == len(written)
    assert min(len(written), pieces * PIECE) <= ring.end - ring.start < (pieces + 1) * PIECE
    read, offset = b"", ring.clamp(None)
    while piece := ring.read(offset, 1000):
        read += piece
        offset += len(piece)
    assert read == written[ring.start :]


def test_an_offset_that_is_gone_or_not_there_yet_is_the_nearest_one() -> None:
    ring = Ring(PIECE)
    ring.append(b"x" * 3 * PIECE)
    assert (ring.clamp(0), ring.clamp(10**15), ring.clamp(ring.end - 5)) == (2 * PIECE, 3 * PIECE, 3 * PIECE - 5)
    assert ring.read(ring.end, 10) == b""


def test_writing_byte_by_byte_costs_no_object_a_byte() -> None:
    ring = Ring(PIECE)
    for _ in range(2 * PIECE):
        ring.append(b"x")
    assert len(ring._pieces) <= 2
