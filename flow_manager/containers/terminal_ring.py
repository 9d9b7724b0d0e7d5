"""The end of what a terminal wrote, by offset. Pure."""

from __future__ import annotations

from collections import deque

# A program that writes byte by byte must not cost an object a byte: what comes is gathered in pieces of this size.
PIECE = 64 * 1024


class Ring:
    """The last `limit` bytes (and less than one piece more). Offsets count from the first byte ever written."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytearray] = deque()
        self.start = 0
        self.end = 0

    def append(self, data: bytes) -> None:
        self.end += len(data)
        view = memoryview(data)
        while view:
            if not self._pieces or len(self._pieces[-1]) >= PIECE:
                self._pieces.append(bytearray())
            last = self._pieces[-1]
            room = PIECE - len(last)
            last += view[:room]
            view = view[room:]
        while self._pieces and self.end - self.start - len(self._pieces[0]) >= self._limit:
            self.start += len(self._pieces.popleft())

    def clamp(self, offset: int | None) -> int:
        """The nearest offset that can be read from; None: the oldest."""
        return self.start if offset is None else min(max(offset, self.start), self.end)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on, which is one that `clamp` gave; fewer where a piece ends, none at the end."""
        skip = offset - self.start
        for piece in self._pieces:
            if skip < len(piece):
                return bytes(memoryview(piece)[skip : skip + size])
            skip -= len(piece)
        return b""

    def clear(self) -> None:
        """Forget the bytes, not how many there were."""
        self._pieces.clear()
        self.start = self.end
