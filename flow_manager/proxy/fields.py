"""Field lines of a head, for requests and responses alike: how they are told apart, and what is for one hop alone. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

Pairs = list[tuple[bytes, bytes]]
# Whole field lines without their CRLF.
Lines = list[bytes]

# A head's bytes: above what browsers with many cookies send, below what hurts.
MAX_HEAD = 64 * 1024
# Longer is more than any disk holds, and some parsers overflow.
MAX_LENGTH_DIGITS = 16
# What is remembered, so as not to be worked out again: names of fields, values of Connection, status lines. Others choose
# them, so both the number and the size are bounded.
MAX_SPELLINGS = 4096
MAX_REMEMBERED = 64
# The kind of a field that just goes on.
KEEP = b""
# Not forwarded in either direction (RFC 9110, section 7.6.1), framing and names that we write ourselves.
HOP = frozenset(
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


class Kinds(dict[bytes, bytes]):
    """For each spelling of a field's name: `KEEP`, or the lower-case name of a field that is handled by itself; `is_special`
    decides about a lower-case name."""

    def __init__(self, is_special: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._is_special = is_special

    def __missing__(self, spelt: bytes) -> bytes:
        name = spelt.lower()
        kind = name if self._is_special(name) else KEEP
        if len(self) < MAX_SPELLINGS and len(spelt) <= MAX_REMEMBERED:
            self[spelt] = kind
        return kind


def ends_with_crlf_alone(raw: bytes, lines: Lines) -> bool:
    """llhttp refuses controls, and lines that go on in the next; that no line ends otherwise is what splitting depends on."""
    return raw.count(b"\n") == len(lines) + 1 == raw.count(b"\r")


def length_of(value: bytes) -> int:
    """-1 when it is not a plain number."""
    return int(value) if value.isdigit() and len(value) <= MAX_LENGTH_DIGITS else -1


def tokens(value: bytes) -> frozenset[bytes]:
    """What a Connection field lists, in lower case."""
    return _known_tokens(value) if len(value) <= MAX_REMEMBERED else _tokens(value)


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t") for token in value.lower().split(b","))


_known_tokens = lru_cache(maxsize=512)(_tokens)


_ORDINARY = frozenset((b"keep-alive", b"close", b"upgrade", b""))


def without(kept: Lines, names: frozenset[bytes]) -> Lines:
    """What Connection names is for this hop alone."""
    if names <= _ORDINARY:
        return kept
    return [line for line in kept if line.partition(b":")[0].lower() not in names]
