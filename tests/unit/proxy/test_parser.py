"""Heads: what is refused, and what a flow gets of what isn't."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_manager.proxy.fields import MAX_HEAD, MAX_SPELLINGS
from flow_manager.proxy.headers import request_bytes
from flow_manager.proxy.parser import (
    MAX_FIELDS,
    MAX_REQUEST_LINE,
    Refused,
    parse_request,
)

HOST = b"Host: web.localhost\r\n"


def get(*fields: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def post(*fields: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


# What two servers might read differently, or none should be sent at all: (raw head, status).
REFUSED: list[tuple[bytes, int]] = [
    # Two lengths, or none that can be trusted.
    (post(b"Content-Length: 4", b"Transfer-Encoding: chunked"), 400),
    (post(b"Transfer-Encoding: chunked", b"Content-Length: 4"), 400),
    (post(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
    (post(b"Content-Length: 4", b"Content-Length: 5"), 400),
    (post(b"Content-Length: 4", b"Content-Length: 4"), 400),
    (post(b"Content-Length: 4, 4"), 400),
    (post(b"Content-Length: 4,5"), 400),
    (post(b"Content-Length: +4"), 400),
    (post(b"Content-Length: -4"), 400),
    (post(b"Content-Length: 0x4"), 400),
    (post(b"Content-Length: 4 4"), 400),
    (post(b"Content-Length: 4a"), 400),
    (post(b"Content-Length: "), 400),
    (post(b"Content-Length:"), 400),
    (post(b"Content-Length: 4.0"), 400),
    (post(b"Content-Length: 1e3"), 400),
    (post(b"Content-Length: 1_0"), 400),
    (post(b"Content-Length: \xb2"), 400),
    (post(b"Content-Length: 99999999999999999999"), 400),
    (post(b"Content-Length: 18446744073709551616"), 400),
    (post(b"Content-Length: 12345678901234567"), 400),
    (post(b"Content-Length : 4"), 400),
    (post(b"Content-Length\t: 4"), 400),
    (post(b" Content-Length: 4"), 400),
    (post(b"Content-Length: 4\x0b"), 400),
    (post(b"Content-Length: \x004"), 400),
    # Codings.
    (post(b"Transfer-Encoding: gzip, chunked"), 400),
    (post(b"Transfer-Encoding: chunked, gzip"), 400),
    (post(b"Transfer-Encoding: chunked, chunked"), 400),
    (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), 400),
    (post(b"Transfer-Encoding: identity"), 400),
    (post(b"Transfer-Encoding: gzip"), 400),
    (post(b"Transfer-Encoding: xchunked"), 400),
    (post(b"Transfer-Encoding: chunkedx"), 400),
    (post(b'Transfer-Encoding: "chunked"'), 400),
    (post(b"Transfer-Encoding: chunked;q=1"), 400),
    (post(b"Transfer-Encoding:"), 400),
    (post(b"Transfer-Encoding : chunked"), 400),
    (post(b"Transfer-Encoding\x00: chunked"), 400),
    (post(b"Transfer-Encoding: \x0bchunked"), 400),
    (post(b"Transfer-Encoding:\x0cchunked"), 400),
    (post(b"Transfer-Encoding: chunked\x00"), 400),
    (post(b" Transfer-Encoding: chunked"), 400),
    (post(b"X: y\r\n Transfer-Encoding: chunked"), 400),
    (post(b"X: y", b"\tTransfer-Encoding: chunked"), 400),
    (post(b"Foo: bar\nTransfer-Encoding: chunked"), 400),
    (post(b"Foo: bar\rTransfer-Encoding: chunked"), 400),
    (post(b"Foo: bar\r\r\nTransfer-Encoding: chunked"), 400),
    (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    # Hosts.
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: \t \r\n\r\n", 400),
    (get(b"Host: other.localhost"), 400),
    (get(b"host: web.localhost"), 400),
    (get(b"Host : other.localhost"), 400),
    (get(b"\tHost: other.localhost"), 400),
    (b"GET http://other.localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http://web.localhost:1/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http://web.localhost@other/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http:///path HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET ftp://web.localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET //web.localhost:80@x HTTP/1.1\r\nHost:\r\n\r\n", 400),
    # Request lines.
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\x00\r\n" + HOST + b"\r\n", 400),
    (b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /a\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /#part HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET path HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    (b"GET /\r\n" + HOST + b"\r\n", 400),
    (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/11\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    (b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 400),
    (b"GET / ICE/1.0\r\n" + HOST + b"\r\n", 400),
    (b"G\x00T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GE(T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"\xef\xbb\xbfGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\n", 505),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"CONNECT web.localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    # Fields.
    (get(b": empty"), 400),
    (get(b"no colon"), 400),
    (get(b"Na me: x"), 400),
    (get(b"N\xc3\xa4me: x"), 400),
    (get(b"Name\x0b: x"), 400),
    (get(b"(Name): x"), 400),
    (get(b"Name: a\x00b"), 400),
    (get(b"Name: a\x1bb"), 400),
    (get(b"Name: a\x7fb"), 400),
    (get(b"Name: a\x08b"), 400),
    (get(b"Name: a\r\n\tb"), 400),
    (get(b"Name: a\nb: c"), 400),
    (get(b"Name: a\rb: c"), 400),
    (get(b"Expect: the-spanish-inquisition"), 417),
    # Sizes.
    (b"GET /" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (get(b"X: " + b"a" * MAX_HEAD), 431),
    (get(*[b"X%d: y" % number for number in range(MAX_FIELDS)]), 431),
]


@pytest.mark.parametrize(
    ("raw", "status"), REFUSED, ids=lambda value: repr(value)[:60] if isinstance(value, bytes) else None
)
def test_a_head_that_two_servers_may_read_differently_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(raw)
    assert refused.value.status == status
    assert refused.value.detail


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len({raw for raw, _ in REFUSED}) >= 80


def forwarded(raw: bytes) -> bytes:
    return request_bytes(parse_request(raw), b"")


WHAT_GOES_ON = [
    (get(b"A: b"), b"GET / HTTP/1.1\r\nHost: web.localhost\r\nA: b\r\n\r\n"),
    (get(b"Cookie: a=b; c=d", b"cookie: e"), get(b"Cookie: a=b; c=d", b"cookie: e")),
    (get(b"X_Custom: kept"), get(b"X_Custom: kept")),
    (get(b"Empty:"), get(b"Empty:")),
    # Hop by hop.
    (get(b"Connection: keep-alive", b"Keep-Alive: timeout=5"), get()),
    (get(b"Connection: close, X-Private", b"X-Private: 1", b"X-Public: 2"), get(b"X-Public: 2")),
    (get(b"Connection: x-a,X-B", b"X-A: 1", b"x-b: 2", b"C: 3"), get(b"C: 3")),
    (get(b"Connection: x-a", b"Connection: x-b", b"X-A: 1", b"x-b: 2", b"C: 3"), get(b"C: 3")),
    (get(b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic eA=="), get()),
    (get(b"TE: trailers", b"Trailer: X"), get()),
    # What Connection names can't take away what we write ourselves.
    (b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Host, Content-Length\r\nContent-Length: 4\r\n\r\n", post(b"Content-Length: 4")),
    # Who asked is not the client's to say, in no spelling.
    (get(b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Host: evil", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 1"), get()),
    (get(b"X-Forwarded-Prefix: /x", b"X-Forwarded-Server: y", b"X-Forwarded-Anything: z"), get()),
    (get(b"Forwarded: for=1.2.3.4", b"X-Real-IP: 1.2.3.4"), get()),
    (get(b"X_Forwarded_For: 1.2.3.4", b"X-Forwarded_Host: e", b"x_real_ip: 1", b"X_FORWARDED-PROTO: https"), get()),
    (get(b"Content_Length: 4", b"Transfer_Encoding: chunked", b"Proxy_Connection: x"), get()),
    # Framing of our own.
    (post(b"Content-Length: 4"), post(b"Content-Length: 4")),
    (post(b"content-length:4"), post(b"Content-Length: 4")),
    (post(b"Content-Length: 0004"), post(b"Content-Length: 4")),
    (post(b"Content-Length: 0"), post(b"Content-Length: 0")),
    (post(b"Transfer-Encoding: chunked"), post(b"Transfer-Encoding: chunked")),
    (post(b"TRANSFER-ENCODING:\tChunked "), post(b"Transfer-Encoding: chunked")),
    (post(b"Expect: 100-continue", b"Content-Length: 4"), post(b"Content-Length: 4")),
    # Targets.
    (b"GET http://web.localhost/a?b HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b HTTP/1.1\r\n" + HOST + b"\r\n"),
    (b"GET http://WEB.localhost HTTP/1.1\r\n" + HOST + b"\r\n", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    (b"GET http://web.localhost?b HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /?b HTTP/1.1\r\n" + HOST + b"\r\n"),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    (b"GET //evil/%2e%2e/ HTTP/1.1\r\n" + HOST + b"\r\n", b"GET //evil/%2e%2e/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    (b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", get()),
    # Upgrades.
    (
        get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"),
        get(b"Sec-WebSocket-Key: x", b"Connection: Upgrade", b"Upgrade: websocket"),
    ),
    (get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"), get()),
    (get(b"Connection: upgrade", b"Upgrade: H2C, websocket"), get(b"Connection: Upgrade", b"Upgrade: websocket")),
    (get(b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: h2"), get()),
    (get(b"Upgrade: websocket"), get()),
    (post(b"Connection: Upgrade", b"Upgrade: foo", b"Content-Length: 3"), post(b"Content-Length: 3")),
    (b"GET / HTTP/1.0\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", get()),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), WHAT_GOES_ON, ids=lambda value: repr(value)[:60])
def test_what_a_flow_gets_is_written_anew(raw: bytes, expected: bytes) -> None:
    assert forwarded(raw) == expected


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (get(), True),
        (get(b"Connection: close"), False),
        (get(b"Connection: Keep-Alive, CLOSE"), False),
        (b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", False),
        (b"GET / HTTP/1.0\r\n" + HOST + b"Connection: Keep-Alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_whether_the_connection_is_kept_follows_version_and_connection(raw: bytes, keep_alive: bool) -> None:
    assert parse_request(raw).keep_alive is keep_alive


def test_a_client_of_http_1_0_is_not_sent_an_interim_response() -> None:
    assert parse_request(post(b"Expect: 100-continue", b"Content-Length: 1")).expects
    old = b"POST / HTTP/1.0\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    assert not parse_request(old).expects


def test_names_that_clients_make_up_fill_no_memory() -> None:
    from flow_manager.proxy import parser

    for number in range(MAX_SPELLINGS + 100):
        parse_request(get(b"X-%d: y" % number))
    assert len(parser._KINDS) <= MAX_SPELLINGS
    assert forwarded(get(b"x-fOrWaRdEd-fOr: 1")) == get()


class _Independent:
    """Reads what goes on with a parser that sees nothing but those bytes."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self.complete += 1


PIECES = [
    *(b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b"\t", b":", b"\0", b",", b"\x0b", b"_"),
    *(b"Host: web.localhost", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: ", b"close", b"upgrade"),
    *(b"Upgrade: websocket", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded_For: 6.6.6.6", b"Content_Length: 5", b"a", b"\xff"),
]  # fmt: skip


@given(
    start=st.sampled_from(
        [b"GET / HTTP/1.1\r\nHost: web.localhost\r\n", b"POST / HTTP/1.1\r\nHost: web.localhost\r\n", b""]
    ),
    middle=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=14),
)
@settings(max_examples=1500, deadline=None)
def test_whatever_comes_is_refused_or_goes_on_as_exactly_one_request(start: bytes, middle: list[bytes]) -> None:
    raw = (start + b"".join(middle) + b"\r\n\r\n").split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        head = parse_request(raw)
    except Refused:
        return
    written = request_bytes(head, b"X-Forwarded-For: 127.0.0.1\r\n")
    assert written.count(b"\r\n\r\n") == 1 and written.endswith(b"\r\n\r\n")
    assert written.count(b"\r") == written.count(b"\n") == written.count(b"\r\n")
    seen = _Independent()
    parser = httptools.HttpRequestParser(seen)
    body = b"0\r\n\r\n" if head.chunked else b"x" * (head.length or 0)
    try:
        parser.feed_data(written + body)
    except httptools.HttpParserUpgrade:
        assert head.upgrade is not None
    assert seen.complete == 1
    names = [name for name, _ in seen.fields]
    assert names.count(b"host") == 1
    assert (
        names.count(b"content-length") + names.count(b"transfer-encoding") == (head.length is not None) + head.chunked
    )
    said = [value for name, value in seen.fields if name.replace(b"_", b"-") == b"x-forwarded-for"]
    assert said == [b"127.0.0.1"]
    assert not {b"content_length", b"transfer_encoding"}.intersection(names)
