"""A response's head, from bytes to facts; as strict as with requests, because a client behind us reads it, too. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

from flow_manager.proxy.fields import (
    HOP,
    KEEP,
    MAX_REMEMBERED,
    Kinds,
    Lines,
    ends_with_crlf_alone,
    length_of,
    tokens,
    without,
)

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
# Of these statuses no response has a body, whatever its head says (RFC 9110, section 6.4.1).
BODILESS = frozenset((204, 304))
_EVENTS = re.compile(rb"content-type:[ \t]*text/event-stream", re.IGNORECASE)
_SPECIAL = HOP | {b"x-flow-cold-start"}
_KINDS = Kinds(_SPECIAL.__contains__)


class BadResponse(Exception):
    """What a flow sent is not HTTP; the client gets 502."""


@dataclass(eq=False, slots=True)
class ResponseHead:
    """`kept` is what may go on; `length` None where there is none; `upgrade` in lower case: what a 101 switches to, or a 426 asks for."""

    status: int
    reason: bytes
    minor: int
    kept: Lines
    length: int | None
    chunked: bool
    keep_alive: bool
    upgrade: bytes | None
    # The status line and `kept`, once they are written out (`headers.response_bytes`).
    onward: bytes | None = None

    @property
    def is_endless(self) -> bool:
        """A stream of events, whose reader comes back by itself when it ends."""
        return any(_EVENTS.match(line) for line in self.kept)


def parse_response(raw: bytes) -> ResponseHead:
    """`raw` ends with the first empty line in it. :raises BadResponse:"""
    lines = raw[:-4].split(b"\r\n")
    line = lines[0]
    status, reason, minor = _known_status_line(line) if len(line) <= MAX_REMEMBERED else _status_line(line)
    if not ends_with_crlf_alone(raw, lines):
        raise BadResponse("its head has lines that don't end with CRLF")
    try:
        httptools.HttpResponseParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadResponse(f"its head is not HTTP/1.1: {error}") from None
    return _response(status, reason, minor, lines)


def _status_line(line: bytes) -> tuple[int, bytes, int]:
    match = _STATUS_LINE.match(line)
    if match is None:
        raise BadResponse("its status line is not HTTP/1.1")
    return int(match[2]), match[3] or b"", 1 if match[1] == b"1" else 0


# An exception is not remembered.
_known_status_line = lru_cache(maxsize=512)(_status_line)


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
        name = _KINDS[spelt]
        if name is KEEP:
            kept.append(line)
            continue
        value = value.strip(b" \t")
        if name == b"content-length":
            if length is not None:
                raise BadResponse("it has more than one Content-Length")
            length = length_of(value)
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
        names = tokens(connection)
        keep_alive = keep_alive and b"close" not in names
        kept = without(kept, names)
    return ResponseHead(
        status, reason, minor, kept, length, coding is not None, keep_alive, upgrade if status in (101, 426) else None
    )
