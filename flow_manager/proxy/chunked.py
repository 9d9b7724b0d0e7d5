"""The chunked coding, read strictly and written anew (RFC 9112, section 7.1). Pure.

Extensions and trailers are checked and dropped: nobody needs them behind a proxy, and both have carried attacks (a lone LF
in an extension is one server's end of line and another's text).
"""

from __future__ import annotations

import re

# A size, and an extension of some length (AWS signs chunks with 85 bytes); and all trailers together.
MAX_SIZE_LINE = 1024
MAX_TRAILERS = 16 * 1024
# 15 hexadecimal digits stay below every parser's 64 bits.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n\Z")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n\Z")
_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)

LAST_CHUNK = b"0\r\n\r\n"


class BadChunk(Exception):
    """The body can't be framed: where it ends is not known, so the connection is of no more use."""


class ChunkedDecoder:
    """Feed it what comes; `done` tells that the body ended, `rest` then holds what came after it."""

    __slots__ = ("_left", "_line", "_state", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._state = _SIZE_LINE
        self._left = 0
        self._line = b""
        self._trailers = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. :raises BadChunk:"""
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size:
            if self._state == _DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", position)
            line = data[position:] if end < 0 else data[position : end + 1]
            position += len(line)
            if self._line:
                line = self._line + line
            if end < 0:
                self._check_unfinished(line)
                self._line = line
                break
            self._line = b""
            self._take(line)
            if self._state == _DONE:
                self.done = True
                self.rest = data[position:]
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_unfinished(self, line: bytes) -> None:
        limit = MAX_TRAILERS if self._state == _TRAILERS else 2 if self._state == _DATA_END else MAX_SIZE_LINE
        if len(line) >= limit:
            raise BadChunk("a chunk's line is too long")

    def _take(self, line: bytes) -> None:
        if self._state == _SIZE_LINE:
            match = _SIZE.match(line) if len(line) <= MAX_SIZE_LINE else None
            if match is None:
                raise BadChunk("a chunk's size is not a hexadecimal number and CRLF")
            self._left = int(match[1], 16)
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            if line != b"\r\n":
                raise BadChunk("a chunk is longer than its size")
            self._state = _SIZE_LINE
        elif line == b"\r\n":
            self._state = _DONE
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS or _TRAILER.match(line) is None:
                raise BadChunk("a trailer is not a header field, or there are too many")


def encode_chunk(data: bytes) -> bytes:
    """One chunk; never empty, because an empty one would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
