"""A command's output as text that every client can take. Pure.

A message has a greatest size in the clients, too: aiohttp, and python-socketio with it, ends a connection at 4 MiB. A reply of
two streams of 1 MiB can be 12 MiB of JSON, since a control character takes six bytes there (`\\u0000`) and what isn't UTF-8
three (U+FFFD). Ordinary text takes little more than its own size, and isn't cut here.
"""

from __future__ import annotations

import codecs

# Both streams together, as JSON; the reply's other fields and the frame's head have the rest of the 4 MiB.
MAX_JSON = 3 * 1024 * 1024 + 768 * 1024
_SHORT_ESCAPES = b'"\\\b\f\n\r\t'
_LONG_ESCAPES = bytes(byte for byte in range(32) if byte not in _SHORT_ESCAPES)
# Looked at in pieces, so that the whole is looked at once and not at each step of a search.
PIECE = 16 * 1024


def fitting(stdout: bytes, stderr: bytes, *, truncated: bool, limit: int = MAX_JSON) -> tuple[str, str, bool]:
    """Both as text, and whether anything is missing. What isn't UTF-8 is U+FFFD; a character that the cap cut in two is left out.

    Each may have half of `limit` bytes of JSON, and what the other doesn't need.
    """
    out, err = _text(stdout, truncated), _text(stderr, truncated)
    out_size, err_size = json_size(out), json_size(err)
    half = limit // 2
    out_room = max(half, limit - err_size)
    err_room = max(half, limit - out_size)
    cut_out, cut_err = _cut(out, out_size, out_room), _cut(err, err_size, err_room)
    return cut_out, cut_err, truncated or cut_out != out or cut_err != err


def json_size(text: str) -> int:
    """Bytes of `text` as a JSON string in UTF-8, without its quotes."""
    raw = text.encode()
    # Deleting bytes and comparing lengths takes a millisecond a megabyte, a regular expression a hundred.
    short = len(raw) - len(raw.translate(None, _SHORT_ESCAPES))
    long = len(raw) - len(raw.translate(None, _LONG_ESCAPES))
    return len(raw) + short + 5 * long


def _text(raw: bytes, truncated: bool) -> str:
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw, final=not truncated)


def _cut(text: str, size: int, room: int) -> str:
    """The longest beginning that takes at most `room` bytes."""
    if size <= room:
        return text
    start = 0
    while (used := json_size(text[start : start + PIECE])) <= room:
        room -= used
        start += PIECE
    low, high = start, start + PIECE
    while low < high:
        middle = (low + high + 1) // 2
        if json_size(text[start:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]
