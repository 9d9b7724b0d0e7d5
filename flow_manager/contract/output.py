"""A command's output as text that every client can take. Pure.

A message has a greatest size in the clients, too: aiohttp, and python-socketio with it, ends a connection at 4 MiB. A reply of
two streams of 1 MiB can be 12 MiB of JSON, since a control character takes six bytes there (`\\u0000`) and what isn't UTF-8
three (U+FFFD). Ordinary text takes little more than its own size, and isn't cut here.
"""

from __future__ import annotations

import codecs
import re

# Both streams together, as JSON; the reply's other fields and the frame's head have the rest of the 4 MiB.
MAX_JSON = 3 * 1024 * 1024 + 768 * 1024
_SHORT_ESCAPE = re.compile(r'["\\\b\f\n\r\t]')
_LONG_ESCAPE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")


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
    return len(text.encode()) + len(_SHORT_ESCAPE.findall(text)) + 5 * len(_LONG_ESCAPE.findall(text))


def _text(raw: bytes, truncated: bool) -> str:
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw, final=not truncated)


def _cut(text: str, size: int, room: int) -> str:
    """The longest beginning that takes at most `room` bytes."""
    if size <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if json_size(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]
