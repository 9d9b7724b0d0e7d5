"""Output of which only so much is kept. The rest is read and dropped: a writer is never held up, memory stays bounded."""

from __future__ import annotations


class Capped:
    """The first `limit` bytes of what is fed."""

    __slots__ = ("_data", "_limit", "cut")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.cut = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        room = self._limit - len(self._data)
        if len(data) > room:
            self.cut = True
            data = memoryview(data)[:room]
        self._data += data

    @property
    def kept(self) -> bytes:
        return bytes(self._data)
