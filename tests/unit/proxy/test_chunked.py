"""The chunked coding, in whatever pieces it comes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_manager.proxy.chunked import LAST_CHUNK, MAX_SIZE_LINE, MAX_TRAILERS, BadChunk, ChunkedDecoder, encode_chunk

BAD = [
    b"x\r\n",
    b"-1\r\n",
    b"+1\r\nx\r\n",
    b"0x1\r\nx\r\n",
    b" 1\r\nx\r\n",
    b"1 \r\nx\r\n",
    b"1\t\r\nx\r\n",
    b"1\nx\r\n",
    b"\r\n1\r\nx\r\n",
    b"1\r\nxy\r\n",
    b"1\r\nx\n",
    b"1\r\nx0\r\n\r\n",
    b"2\r\nx\r\n0\r\n\r\n",
    b"1;\x00\r\nx\r\n",
    b"1;a\nb\r\nx\r\n",
    b"1;a\rb\r\nx\r\n",
    b"1,2\r\nx\r\n",
    b"1_0\r\nx\r\n",
    b"\xef\xbc\x91\r\nx\r\n",
    b"ffffffffffffffff\r\n",
    b"10000000000000000\r\n",
    b"0000000000000000000000000000001\r\nx\r\n",
    b"1;" + b"a" * MAX_SIZE_LINE,
    b"1" * (MAX_SIZE_LINE + 1),
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n folded: x\r\n\r\n",
    b"0\r\nName : x\r\n\r\n",
    b"0\r\nName: \x00\r\n\r\n",
    b"0\r\nName: a\n\r\n",
    b"0\r\n\n",
    b"0\r\n" + b"A: b\r\n" * MAX_TRAILERS,
    b"0\r\nA: " + b"b" * MAX_TRAILERS,
    b"1\r\nx\r\nGET / HTTP/1.1\r\n",
]


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: repr(raw)[:50])
@pytest.mark.parametrize("step", [1, 7, 10_000_000])
def test_a_body_whose_end_is_in_doubt_is_refused(raw: bytes, step: int) -> None:
    decoder = ChunkedDecoder()
    with pytest.raises(BadChunk):
        for start in range(0, len(raw), step):
            decoder.feed(raw[start : start + step])
    assert not decoder.done


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    extension=st.sampled_from([b"", b";a=b", b';chunk-signature="x y"', b";"]),
    upper=st.booleans(),
    zeros=st.integers(0, 4),
    trailers=st.sampled_from([b"", b"X: y\r\n", b"A: b\r\nContent-Length: 4\r\n"]),
    after=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_the_payload_and_what_follows_come_out_however_it_is_cut(
    chunks: list[bytes], extension: bytes, upper: bool, zeros: int, trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    form = "%X" if upper else "%x"
    raw = b"".join(
        b"0" * zeros + (form % len(chunk)).encode() + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks
    )
    raw += b"0" + extension + b"\r\n" + trailers + b"\r\n"
    decoder = ChunkedDecoder()
    body = b""
    whole = raw + after
    places = [0, *sorted(cut % (len(raw)) for cut in cuts), len(whole)]
    for start, end in itertools.pairwise(places):
        body += decoder.feed(whole[start:end])
    assert decoder.done
    assert body == b"".join(chunks)
    assert decoder.rest == after


def test_what_is_written_is_read_the_same() -> None:
    decoder = ChunkedDecoder()
    assert (
        decoder.feed(encode_chunk(b"abc") + encode_chunk(b"") + encode_chunk(b"d" * 1000) + LAST_CHUNK)
        == b"abc" + b"d" * 1000
    )
    assert decoder.done and decoder.rest == b""
