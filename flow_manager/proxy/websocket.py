"""Tells when a WebSocket carries data (RFC 6455, section 5.2). Pure; it reads frame headers and skips what they announce.

A browser's open tab pings for ever: only text, binary and continuation frames are use.
"""

from __future__ import annotations

_OPCODE = 0x0F
_FIRST_CONTROL = 0x8
_LENGTH = 0x7F
_MASKED = 0x80
# The longest header: two bytes, eight of length, four of mask.
_LONGEST = 14


class FrameScanner:
    """One direction of one connection."""

    __slots__ = ("_header", "_skip")

    def __init__(self) -> None:
        self._header = b""
        self._skip = 0

    def feed(self, data: bytes) -> bool:
        """True when part of a data frame was in it."""
        used = False
        position, size = 0, len(data)
        if self._skip:
            # The frame's opcode is known from before: in `_skip` data frames are positive, control frames negative.
            left = abs(self._skip)
            used = self._skip > 0
            if left >= size:
                self._skip = left - size if used else size - left
                return used
            position, self._skip = left, 0
        if self._header:
            # Headers are cut across reads only now and then.
            data = self._header + data[position:]
            position, size, self._header = 0, len(data), b""
        while position < size:
            left = size - position
            if left < 2 or left < (need := _header_size(data[position + 1])):
                self._header = data[position : position + _LONGEST]
                break
            is_data = data[position] & _OPCODE < _FIRST_CONTROL
            used = used or is_data
            end = position + need + _payload(data, position)
            if end > size:
                self._skip = end - size if is_data else size - end
                break
            position = end
        return used


def _header_size(second: int) -> int:
    length = second & _LENGTH
    return 2 + (8 if length == 127 else 2 if length == 126 else 0) + (4 if second & _MASKED else 0)


def _payload(data: bytes, position: int) -> int:
    length = data[position + 1] & _LENGTH
    if length == 126:
        return int.from_bytes(data[position + 2 : position + 4], "big")
    if length == 127:
        return int.from_bytes(data[position + 2 : position + 10], "big")
    return length
