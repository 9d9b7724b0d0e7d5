"""The head that came last on a connection. What a client or a server says with each message is mostly the same, word for word:
then it is not read again.

One head a connection, and none that is large: a stranger can't fill more. What is remembered is the outcome of a pure
function of the very same bytes, so nothing passes here that would not have passed before.
"""

from __future__ import annotations

from flow_manager.proxy.parser import RequestHead, parse_again, parse_request
from flow_manager.proxy.response_parser import ResponseHead, parse_response

# Bytes: what API clients and browsers without a load of cookies send.
MAX_KEPT = 2048


class LastRequest:
    """A client asks for many paths with the same fields: those are compared without the request line."""

    __slots__ = ("_fields", "_head")

    def __init__(self) -> None:
        self._fields = b""
        self._head: RequestHead | None = None

    def read(self, raw: bytes) -> RequestHead:
        """As `parse_request`. :raises Refused:"""
        line, _, fields = raw.partition(b"\r\n")
        before = self._head
        head = parse_request(raw) if before is None or fields != self._fields else parse_again(raw, line, before)
        if len(fields) <= MAX_KEPT:
            self._fields, self._head = fields, head
        return head


class LastResponse:
    """A server's answers to one question differ by their Date alone: within a second, not at all."""

    __slots__ = ("_head", "_raw")

    def __init__(self) -> None:
        self._raw = b""
        self._head: ResponseHead | None = None

    def read(self, raw: bytes) -> ResponseHead:
        """As `parse_response`. :raises BadResponse:"""
        if self._head is not None and raw == self._raw:
            return self._head
        head = parse_response(raw)
        if len(raw) <= MAX_KEPT:
            self._raw, self._head = raw, head
        return head
