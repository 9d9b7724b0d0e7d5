"""A request's head, from bytes to facts, or a refusal: pure, and stricter than any server behind us.

llhttp (httptools) judges the lines; what it lets pass and some other server might read differently is refused here: anything
but CRLF, controls, a second Host, lengths that disagree, codings other than chunked. After both, where a line and its name
end is beyond doubt, and what goes on is written anew (`headers`). RFC 9112 sections 2, 3, 5, 6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from flow_manager.proxy.fields import (
    HOP,
    KEEP,
    MAX_HEAD,
    Kinds,
    Lines,
    Pairs,
    ends_with_crlf_alone,
    length_of,
    tokens,
    without,
)

# The fields of a head, and the request line alone.
MAX_FIELDS = 100
MAX_REQUEST_LINE = 16 * 1024

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x22\x24-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])\Z")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)\Z", re.IGNORECASE | re.DOTALL)

# RFC 9110, sections 9.2.2 and 9.2.1.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_SPECIAL = HOP | {b"host", b"expect", b"forwarded", b"x-real-ip"}
_FORWARDED_PREFIX = b"x-forwarded-"
_NO_TUNNEL = frozenset((b"h2c", b"h2", b"http/2.0", b"tls/1.0"))


class Refused(Exception):
    """A request that is not passed on: `status`, a `code` for programs, a sentence for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


@dataclass(eq=False, slots=True)
class RequestHead:
    """`lines` is everything as it came; `kept` what may go on. `length` is None without Content-Length.

    `authority` is the Host as it came (not judged here); `claims` what it says of earlier hops, for those who are trusted.
    `upgrade` is the protocol asked for, as written, where it may be tunnelled.
    """

    method: bytes
    target: bytes
    minor: int
    lines: Lines
    kept: Lines
    authority: bytes
    length: int | None
    chunked: bool
    keep_alive: bool
    expects: bool
    upgrade: bytes | None
    claims: Pairs
    # All that follows the request line on the way to the flow, once it is worked out (`asker.Asker.request_bytes`).
    onward: bytes | None = None

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    @property
    def is_repeatable(self) -> bool:
        """Whether doing it twice is doing it once, and all of it is in this head."""
        return self.method in _IDEMPOTENT and not self.has_body and self.upgrade is None

    @property
    def is_safe(self) -> bool:
        return self.method in _SAFE

    def pairs(self) -> Pairs:
        """Names and values of all fields, in order."""
        return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in self.lines)]


def _is_special(name: bytes) -> bool:
    # Behind CGI or WSGI `X_Forwarded_For` and `X-Forwarded-For` are one name.
    alias = name.replace(b"_", b"-")
    return alias in _SPECIAL or alias.startswith(_FORWARDED_PREFIX)


_KINDS = Kinds(_is_special)


def parse_request(raw: bytes) -> RequestHead:
    """`raw` ends with the first empty line in it. :raises Refused:"""
    if len(raw) > MAX_HEAD:
        raise too_large()
    lines = raw[:-4].split(b"\r\n")
    method, target, minor = _request_line(lines[0])
    if not ends_with_crlf_alone(raw, lines):
        raise Refused(400, "bad_head", "the lines of a head end with CRLF")
    _judge(raw)
    return _request(method, target, minor, lines)


def parse_again(raw: bytes, line: bytes, before: RequestHead) -> RequestHead:
    """The same as `parse_request`, where all that follows the request line `line` is, byte for byte, what followed that of
    `before`: then only the request line is read anew. :raises Refused:"""
    method, target, minor = _request_line(line)
    if minor != before.minor:
        return parse_request(raw)
    _judge(raw)
    return RequestHead(
        method,
        _target(method, target, before.authority),
        minor,
        before.lines,
        before.kept,
        before.authority,
        before.length,
        before.chunked,
        before.keep_alive,
        before.expects,
        before.upgrade,
        before.claims,
        before.onward,
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    if len(line) > MAX_REQUEST_LINE:
        raise too_long()
    match = _REQUEST_LINE.match(line)
    if match is None:
        raise Refused(400, "bad_request_line", "the request line is not `METHOD target HTTP/1.1`")
    method, target, version = match.groups()
    if version == b"HTTP/1.1":
        return method, target, 1
    if version == b"HTTP/1.0":
        return method, target, 0
    raise Refused(505, "http_version", f"{version.decode('ascii')} is not spoken here, HTTP/1.1 is")


def _judge(raw: bytes) -> None:
    try:
        httptools.HttpRequestParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # whether it is one is decided below
    except httptools.HttpParserInvalidMethodError:
        raise Refused(501, "unknown_method", "that method is not known here") from None
    except httptools.HttpParserError as error:
        raise Refused(400, "bad_head", f"the head is not HTTP/1.1: {error}") from None


def _request(method: bytes, target: bytes, minor: int, lines: Lines) -> RequestHead:
    """`lines` begins with the request line."""
    del lines[0]
    if len(lines) > MAX_FIELDS:
        raise too_large()
    kept: Lines = []
    claims: Pairs = []
    host: bytes | None = None
    length: int | None = None
    coding: bytes | None = None
    connection = upgrade = b""
    expects = False
    for line in lines:
        spelt, _, value = line.partition(b":")
        name = _KINDS[spelt]
        if name is KEEP:
            kept.append(line)
            continue
        value = value.strip(b" \t")
        if name == b"host":
            if host is not None:
                raise Refused(400, "bad_host", "exactly one Host header is needed")
            host = value
        elif name == b"connection":
            connection = value if not connection else connection + b"," + value
        elif name == b"content-length":
            if length is not None:
                raise Refused(400, "bad_length", "more than one Content-Length")
            length = length_of(value)
        elif name == b"transfer-encoding":
            if coding is not None:
                raise Refused(400, "bad_coding", "more than one Transfer-Encoding")
            coding = value
        elif name == b"upgrade":
            upgrade = value if not upgrade else upgrade + b"," + value
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, "bad_expectation", "the only expectation known here is 100-continue")
            expects = True
        elif name == b"forwarded" or name == b"x-real-ip" or name.startswith(_FORWARDED_PREFIX):
            claims.append((name, value))
    if length is not None and length < 0:
        raise Refused(400, "bad_length", "Content-Length is not a number")
    if coding is not None:
        if length is not None:
            raise Refused(400, "bad_length", "Content-Length and Transfer-Encoding exclude each other")
        if minor == 0:
            raise Refused(400, "bad_coding", "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise Refused(400, "bad_coding", "the only Transfer-Encoding known here is chunked")
    if not host:
        raise Refused(400, "bad_host", "exactly one Host header is needed, with a name and perhaps a port")
    target = _target(method, target, host)
    keep_alive = minor == 1
    if connection:
        names = tokens(connection)
        keep_alive = b"close" not in names and (minor == 1 or b"keep-alive" in names)
        if upgrade and (minor == 0 or b"upgrade" not in names):
            upgrade = b""
        kept = without(kept, names)
    else:
        upgrade = b""
    return RequestHead(
        method,
        target,
        minor,
        lines,
        kept,
        host,
        length,
        coding is not None,
        keep_alive,
        # To HTTP/1.0 no interim response may be sent (RFC 9110, section 10.1.1).
        expects and minor == 1,
        _tunnel(upgrade) if upgrade and coding is None and not length else None,
        claims,
    )


def too_long() -> Refused:
    return Refused(414, "target_too_long", f"the request line may have {MAX_REQUEST_LINE} bytes")


def too_large() -> Refused:
    return Refused(431, "head_too_large", f"a head may have {MAX_HEAD} bytes and {MAX_FIELDS} fields")


def _tunnel(upgrade: bytes) -> bytes | None:
    """The protocols asked for, without HTTP/2: that would be a second way in, past every rule here (h2c smuggling)."""
    asked = [name.strip(b" \t") for name in upgrade.split(b",")]
    return b", ".join(name for name in asked if name and name.lower() not in _NO_TUNNEL) or None


def _target(method: bytes, target: bytes, host: bytes) -> bytes:
    """A path. `http://host/path` means the path when it names the same host; anything else would let two parsers see two hosts."""
    if method == b"CONNECT" or method == b"TRACE":
        # A tunnel to anywhere, and an echo of headers that a page may not read: a flow needs neither.
        raise Refused(405, "method_not_allowed", f"{method.decode('ascii')} is not forwarded")
    if target[0] == 0x2F:
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    match = _ABSOLUTE.match(target)
    if match is None or match[1].lower() != host.lower():
        raise Refused(400, "bad_target", "the target must be a path, or name the same host as the Host header")
    rest = match[2]
    return rest if rest.startswith(b"/") else b"/" + rest
