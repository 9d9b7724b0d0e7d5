"""One message's head, from bytes to facts, or a refusal: pure, and stricter than any server behind us.

llhttp (httptools) judges the lines; what it lets pass and some other server might read differently is refused here: anything
but CRLF, controls, a second Host, lengths that disagree, codings other than chunked. After both, where a line and its name
end is beyond doubt, and what goes on is written anew (`headers`). RFC 9112 sections 2, 3, 5, 6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

Pairs = list[tuple[bytes, bytes]]
# Whole field lines without their CRLF.
Lines = list[bytes]

# A head's bytes, its fields, and the request line alone: above what browsers with many cookies send, below what hurts.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 100
MAX_REQUEST_LINE = 16 * 1024
# Longer is more than any disk holds, and some parsers overflow.
MAX_LENGTH_DIGITS = 16

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x22\x24-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)\Z", re.IGNORECASE | re.DOTALL)

# Not forwarded in either direction (RFC 9110, section 7.6.1), framing and names that we write ourselves.
_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"content-length",
    )
)
_REQUEST_SPECIAL = _HOP | {b"host", b"expect", b"forwarded", b"x-real-ip"}
_RESPONSE_SPECIAL = _HOP | {b"x-flow-cold-start"}
_FORWARDED_PREFIX = b"x-forwarded-"
_NO_TUNNEL = frozenset((b"h2c", b"h2", b"http/2.0", b"tls/1.0"))


class Refused(Exception):
    """A request that is not passed on: `status`, a `code` for programs, a sentence for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class BadResponse(Exception):
    """What a flow sent is not HTTP; the client gets 502."""


# What is to be done with a field of that spelling: a dictionary is the fastest way to know, and names repeat. Bounded,
# because clients choose them.
_MAX_SPELLINGS = 4096
_KEEP = b""


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

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def pairs(self) -> Pairs:
        """Names and values of all fields, in order."""
        return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in self.lines)]


@dataclass(eq=False, slots=True)
class ResponseHead:
    """`kept` is what may go on; `length` None where there is none; `upgrade` in lower case, of a 101."""

    status: int
    reason: bytes
    minor: int
    kept: Lines
    length: int | None
    chunked: bool
    keep_alive: bool
    upgrade: bytes | None


class _Kinds(dict[bytes, bytes]):
    """For each spelling of a field's name: `_KEEP`, or the lower-case name of a field that is handled by itself."""

    def __init__(self, special: frozenset[bytes], *, of_request: bool) -> None:
        super().__init__()
        self._special = special
        self._of_request = of_request

    def __missing__(self, spelt: bytes) -> bytes:
        kind = self._judge(spelt.lower())
        if len(self) < _MAX_SPELLINGS:
            self[spelt] = kind
        return kind

    def _judge(self, name: bytes) -> bytes:
        if name in self._special:
            return name
        if self._of_request:
            # Behind CGI or WSGI `X_Forwarded_For` and `X-Forwarded-For` are one name.
            alias = name.replace(b"_", b"-")
            if alias.startswith(_FORWARDED_PREFIX) or alias in self._special:
                return name
        return _KEEP


_OF_REQUESTS = _Kinds(_REQUEST_SPECIAL, of_request=True)
_OF_RESPONSES = _Kinds(_RESPONSE_SPECIAL, of_request=False)


def parse_request(raw: bytes) -> RequestHead:
    """`raw` ends with the first empty line in it. :raises Refused:"""
    if len(raw) > MAX_HEAD:
        raise too_large()
    lines = raw[:-4].split(b"\r\n")
    if len(lines[0]) > MAX_REQUEST_LINE:
        raise too_long()
    match = _REQUEST_LINE.match(lines[0])
    if match is None:
        raise Refused(400, "bad_request_line", "the request line is not `METHOD target HTTP/1.1`")
    method, target, version = match.groups()
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        raise Refused(505, "http_version", f"{version.decode('ascii')} is not spoken here, HTTP/1.1 is")
    if not _ends_with_crlf_alone(raw, lines):
        raise Refused(400, "bad_head", "the lines of a head end with CRLF")
    try:
        httptools.HttpRequestParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # whether it is one is decided below
    except httptools.HttpParserInvalidMethodError:
        raise Refused(501, "unknown_method", "that method is not known here") from None
    except httptools.HttpParserError as error:
        raise Refused(400, "bad_head", f"the head is not HTTP/1.1: {error}") from None
    return _request(method, target, 1 if version == b"HTTP/1.1" else 0, lines)


def _ends_with_crlf_alone(raw: bytes, lines: Lines) -> bool:
    """llhttp refuses controls, and lines that go on in the next; that no line ends otherwise is what splitting depends on."""
    return raw.count(b"\n") == len(lines) + 1 == raw.count(b"\r")


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
        name = _OF_REQUESTS[spelt]
        if name is _KEEP:
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
            length = _length(value)
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
    if method == b"CONNECT" or method == b"TRACE":
        # A tunnel to anywhere, and an echo of headers that a page may not read: a flow needs neither.
        raise Refused(405, "method_not_allowed", f"{method.decode('ascii')} is not forwarded")
    if target[0] != 0x2F:
        target = _origin_form(method, target, host)
    keep_alive = minor == 1
    if connection:
        names = _tokens(connection)
        keep_alive = b"close" not in names and (minor == 1 or b"keep-alive" in names)
        if upgrade and (minor == 0 or b"upgrade" not in names):
            upgrade = b""
        kept = _without(kept, names)
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


def parse_response(raw: bytes) -> ResponseHead:
    """`raw` ends with the first empty line in it. :raises BadResponse:"""
    lines = raw[:-4].split(b"\r\n")
    status, reason, minor = _status_line(lines[0])
    if not _ends_with_crlf_alone(raw, lines):
        raise BadResponse("its head has lines that don't end with CRLF")
    try:
        httptools.HttpResponseParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadResponse(f"its head is not HTTP/1.1: {error}") from None
    return _response(status, reason, minor, lines)


@lru_cache(maxsize=512)
def _status_line(line: bytes) -> tuple[int, bytes, int]:
    """Remembered: there are few. An exception isn't."""
    match = _STATUS_LINE.match(line)
    if match is None:
        raise BadResponse("its status line is not HTTP/1.1")
    return int(match[2]), match[3] or b"", 1 if match[1] == b"1" else 0


def _response(status: int, reason: bytes, minor: int, lines: Lines) -> ResponseHead:
    """`lines` begins with the status line."""
    kept: Lines = []
    length: int | None = None
    coding: bytes | None = None
    connection = b""
    upgrade: bytes | None = None
    del lines[0]
    for line in lines:
        spelt, _, value = line.partition(b":")
        name = _OF_RESPONSES[spelt]
        if name is _KEEP:
            kept.append(line)
            continue
        value = value.strip(b" \t")
        if name == b"content-length":
            if length is not None:
                raise BadResponse("it has more than one Content-Length")
            length = _length(value)
            if length < 0:
                raise BadResponse("its Content-Length is not a number")
        elif name == b"transfer-encoding":
            if coding is not None or value.lower() != b"chunked" or minor == 0:
                raise BadResponse("its Transfer-Encoding is not chunked")
            coding = value
        elif name == b"connection":
            connection = value if not connection else connection + b"," + value
        elif name == b"upgrade":
            upgrade = value.lower()
    if coding is not None and length is not None:
        raise BadResponse("it has both Content-Length and Transfer-Encoding")
    # A connection of HTTP/1.0 is not used again, whatever it says: too many mean it differently.
    keep_alive = minor == 1
    if connection:
        names = _tokens(connection)
        keep_alive = keep_alive and b"close" not in names
        kept = _without(kept, names)
    return ResponseHead(
        status, reason, minor, kept, length, coding is not None, keep_alive, upgrade if status == 101 else None
    )


def too_long() -> Refused:
    return Refused(414, "target_too_long", f"the request line may have {MAX_REQUEST_LINE} bytes")


def too_large() -> Refused:
    return Refused(431, "head_too_large", f"a head may have {MAX_HEAD} bytes and {MAX_FIELDS} fields")


def _length(value: bytes) -> int:
    """-1 when it is not a plain number."""
    return int(value) if value.isdigit() and len(value) <= MAX_LENGTH_DIGITS else -1


@lru_cache(maxsize=512)
def _tokens(value: bytes) -> frozenset[bytes]:
    """What a Connection field lists. Remembered: nearly all are one of five."""
    return frozenset(token.strip(b" \t") for token in value.lower().split(b","))


_ORDINARY = frozenset((b"keep-alive", b"close", b"upgrade", b""))


def _without(kept: Lines, names: frozenset[bytes]) -> Lines:
    """What Connection names is for this hop alone."""
    if names <= _ORDINARY:
        return kept
    return [line for line in kept if line.partition(b":")[0].lower() not in names]


def _tunnel(upgrade: bytes) -> bytes | None:
    """The protocols asked for, without HTTP/2: that would be a second way in, past every rule here (h2c smuggling)."""
    asked = [name.strip(b" \t") for name in upgrade.split(b",")]
    return b", ".join(name for name in asked if name and name.lower() not in _NO_TUNNEL) or None


def _origin_form(method: bytes, target: bytes, host: bytes) -> bytes:
    """`http://host/path` means the path when it names the same host; anything else would let two parsers see two hosts."""
    if target == b"*" and method == b"OPTIONS":
        return target
    match = _ABSOLUTE.match(target)
    if match is None or match[1].lower() != host.lower():
        raise Refused(400, "bad_target", "the target must be a path, or name the same host as the Host header")
    rest = match[2]
    return rest if rest.startswith(b"/") else b"/" + rest
