"""A head that repeats the last one's fields is read as if it were the first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flow_manager.proxy.asker import Asker
from flow_manager.proxy.headers import Trust
from flow_manager.proxy.last_head import MAX_KEPT, LastRequest, LastResponse
from flow_manager.proxy.parser import Refused, RequestHead, parse_request
from flow_manager.proxy.response_parser import BadResponse, ResponseHead, parse_response

LINES = (
    "GET /a HTTP/1.1",
    "GET /b?c HTTP/1.1",
    "POST /a HTTP/1.1",
    "HEAD / HTTP/1.0",
    "GET / HTTP/1.0",
    "GET http://flow.localhost/x HTTP/1.1",
    "GET http://other.localhost/x HTTP/1.1",
    "CONNECT flow.localhost:80 HTTP/1.1",
    "TRACE / HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET * HTTP/1.1",
    "BREW /pot HTTP/1.1",
    "GET / HTTP/2.0",
    "GET /\x01 HTTP/1.1",
    "GET / HTTP/1.1\nX: y",
    "GET",
)
FIELDS = (
    ("Host: flow.localhost",),
    ("Host: flow.localhost", "Accept: */*", "X-Forwarded-For: 10.0.0.9"),
    ("Host: flow.localhost", "Connection: keep-alive, X-Private", "X-Private: 1"),
    ("Host: flow.localhost", "Connection: close"),
    ("Host: flow.localhost", "Content-Length: 5"),
    ("Host: flow.localhost", "Transfer-Encoding: chunked"),
    ("Host: flow.localhost", "Transfer-Encoding: chunked", "Content-Length: 5"),
    ("Host: flow.localhost", "Connection: Upgrade", "Upgrade: websocket"),
    ("Host: flow.localhost", "Expect: 100-continue", "Content-Length: 1"),
    ("Accept: */*",),
    ("Host: flow.localhost", " folded"),
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-A: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
)


def raw_request(line: str, fields: tuple[str, ...]) -> bytes:
    return "".join(f"{one}\r\n" for one in (line, *fields, "")).encode("latin-1")


def facts(head: RequestHead) -> tuple[object, ...]:
    return tuple(getattr(head, name) for name in RequestHead.__slots__ if name != "onward")


def outcome_of_request(read: object, raw: bytes) -> object:
    try:
        return facts(read(raw))  # type: ignore[operator]
    except Refused as refused:
        return refused.status, refused.code, refused.detail


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(FIELDS)), min_size=2, max_size=12))
def test_a_row_of_requests_reads_as_each_of_them_alone(asked: list[tuple[str, tuple[str, ...]]]) -> None:
    last = LastRequest()
    for line, fields in asked:
        raw = raw_request(line, fields)
        assert outcome_of_request(last.read, raw) == outcome_of_request(parse_request, raw)


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(FIELDS)), min_size=2, max_size=12))
def test_what_goes_on_is_what_would_go_on_for_each_of_them_alone(asked: list[tuple[str, tuple[str, ...]]]) -> None:
    last, asker = LastRequest(), Asker("127.0.0.1", Trust(["127.0.0.0/8"]))
    for line, fields in asked:
        raw = raw_request(line, fields)
        try:
            alone = parse_request(raw)
        except Refused:
            continue
        fresh = Asker("127.0.0.1", Trust(["127.0.0.0/8"]))
        assert asker.request_bytes(last.read(raw)) == fresh.request_bytes(alone)


def test_the_fields_are_not_worked_out_again() -> None:
    last, asker = LastRequest(), Asker("127.0.0.1", Trust([]))
    first = last.read(raw_request("GET /a HTTP/1.1", FIELDS[1]))
    asker.request_bytes(first)
    second = last.read(raw_request("GET /b HTTP/1.1", FIELDS[1]))
    assert second.kept is first.kept and second.onward is first.onward is not None
    assert second.target == b"/b" and asker.request_bytes(second).startswith(b"GET /b HTTP/1.1\r\n")


def test_a_large_head_is_not_kept() -> None:
    last = LastRequest()
    raw = raw_request("GET /a HTTP/1.1", ("Host: flow.localhost", "X: " + "y" * MAX_KEPT))
    assert last.read(raw).kept is not last.read(raw).kept
    answers = LastResponse()
    large = b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n" % (b"y" * MAX_KEPT)
    assert answers.read(large) is not answers.read(large)


def outcome_of_response(read: object, raw: bytes) -> object:
    try:
        head = read(raw)  # type: ignore[operator]
    except BadResponse as error:
        return str(error)
    return tuple(getattr(head, name) for name in ResponseHead.__slots__ if name != "onward")


@given(st.lists(st.sampled_from(ANSWERS), min_size=2, max_size=12))
def test_a_row_of_responses_reads_as_each_of_them_alone(raws: list[bytes]) -> None:
    last = LastResponse()
    for raw in raws:
        assert outcome_of_response(last.read, raw) == outcome_of_response(parse_response, raw)


def test_the_same_response_head_is_not_read_again() -> None:
    last = LastResponse()
    assert last.read(ANSWERS[0]) is last.read(bytes(bytearray(ANSWERS[0])))
