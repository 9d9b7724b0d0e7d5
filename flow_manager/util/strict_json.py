"""The one JSON codec of every edge: what we take in and what we send is JSON that every client can read.

Refused: NaN and Infinity, numbers past a double, integers past ±(2**53 - 1) (a JavaScript client would silently get another
number: RFC 7493, section 2.2), more than 32 levels, lone surrogates, and text that is not UTF-8. Measured traps behind this:
python-socketio takes NaN in and broadcasts it, and an object 900 levels deep is taken in and then breaks `emit`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

MAX_DEPTH = 32
MAX_SAFE_INTEGER = 2**53 - 1
# Every digit becomes "0", every opener "[", all else " ": then one count and one substring search tell whether a text needs
# a closer look. A regular expression for the digits alone cost more than the parsing.
_OUTLINE = bytes(48 if byte in b"0123456789" else 91 if byte in b"[{" else 32 for byte in range(256))
_LONG_DIGITS = b"0" * 16
# For the depth alone: every bracket becomes a square one, all else goes.
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
# Only for text that was parsed: where a string has no end, each of its quotes would be tried as the beginning of one.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMBER = re.compile(rb"-?(?P<digits>[0-9]+)(?P<fraction>[.eE][0-9eE+.-]*)?")


class JsonRefused(ValueError):
    """The text is not JSON that this service takes; the message says why, without repeating the text."""


def loads(raw: str | bytes | bytearray | memoryview) -> Any:
    """Parse strict JSON.

    :raises JsonRefused: for anything that the module's docstring refuses.
    """
    if type(raw) is bytes:
        data = raw
    elif isinstance(raw, str):
        try:
            data = raw.encode()
        except UnicodeEncodeError:
            raise JsonRefused("text holds a lone surrogate") from None
    else:
        data = bytes(raw)
    try:
        value = orjson.loads(data)  # has a limit of its own, of 1024 levels
    except orjson.JSONDecodeError as exc:
        raise JsonRefused(f"not JSON: {exc.msg} at character {exc.pos}") from None
    # Counting openers is far cheaper than a closer look: that is for text that could be too deep.
    outline = data.translate(_OUTLINE)
    if outline.count(b"[") > MAX_DEPTH:
        _check_depth(data)
    if outline.find(_LONG_DIGITS) >= 0:
        _check_integers(data)
    return value


def dumps_bytes(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON.

    :raises JsonRefused: for a value that is not plain JSON data; NaN and Infinity become null (as JavaScript does).
    """
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise JsonRefused(f"cannot be written as JSON: {exc}") from None


def dumps_line(value: Any) -> bytes:
    """As `dumps_bytes`, with a newline at the end: written there by the encoder, it costs no copy of all the rest.

    :raises JsonRefused: as `dumps_bytes`.
    """
    try:
        return orjson.dumps(value, None, orjson.OPT_APPEND_NEWLINE)
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise JsonRefused(f"cannot be written as JSON: {exc}") from None


def dumps(value: Any, **_options: Any) -> str:
    """Encode as text. Options of the standard library's `dumps` are accepted and unused: the output is always compact."""
    return dumps_bytes(value).decode()


def _check_depth(data: bytes) -> None:
    left = _STRING.sub(b"", data).translate(_SQUARE, _NO_BRACKET)
    for _ in range(MAX_DEPTH):
        left = left.replace(b"[]", b"")  # the innermost level goes
        if not left:
            return
    raise JsonRefused(f"more than {MAX_DEPTH} levels deep")


def _check_integers(data: bytes) -> None:
    for match in _NUMBER.finditer(_STRING.sub(b'""', data)):
        # Digits are counted before `int()` sees them: converting 100,000 digits is itself an attack.
        if match["fraction"] is None and (len(match["digits"]) > 16 or int(match["digits"]) > MAX_SAFE_INTEGER):
            raise JsonRefused("an integer is past ±(2**53 - 1)")
