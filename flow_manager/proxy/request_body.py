"""The body of the request under way: where it ends, and what of it waits to be sent on. Pure."""

from __future__ import annotations

from flow_manager.proxy.chunked import ChunkedDecoder
from flow_manager.proxy.parser import RequestHead


class RequestBody:
    """`waiting` is what was read and not sent on yet, `size` its bytes."""

    __slots__ = ("_decoder", "_left", "size", "waiting")

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.size = 0
        self._left = 0
        self._decoder: ChunkedDecoder | None = None

    def expect(self, head: RequestHead) -> bool:
        """Whether that request has a body, which comes now."""
        if head.length:
            self._left = head.length
            return True
        if head.chunked:
            self._decoder = ChunkedDecoder()
            return True
        return False

    def feed(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """The payload in `data`, what comes after the body, and whether it has ended. :raises BadChunk:"""
        decoder = self._decoder
        if decoder is not None:
            payload = decoder.feed(data)
            if not decoder.done:
                return payload, b"", False
            self._decoder = None
            return payload, decoder.rest, True
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b"", False
        self._left = 0
        return (data, b"", True) if len(data) == left else (data[:left], data[left:], True)

    def keep(self, payload: bytes) -> None:
        self.waiting.append(payload)
        self.size += len(payload)

    def take(self) -> list[bytes]:
        waiting, self.waiting, self.size = self.waiting, [], 0
        return waiting

    def forget(self) -> None:
        """The request has ended, however much of it came."""
        if self.waiting:
            self.take()
        self._decoder = None
