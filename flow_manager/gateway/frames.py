"""What goes to a client, encoded once however many clients get it. Pure.

A frame is an Engine.IO MESSAGE (`4`) that holds a Socket.IO packet (`2` event, `3` acknowledgement), in both forms in which
it may travel: the text of a long-polling payload, and the bytes of a WebSocket frame (RFC 6455, section 5.2: final, text,
unmasked, because a server never masks).
"""

from __future__ import annotations

from engineio import packet as engine

_FINAL_TEXT = 0x81
_SHORT = 126
_MEDIUM = 1 << 16


def websocket_text(payload: bytes) -> bytes:
    """One unmasked text frame."""
    size = len(payload)
    if size < _SHORT:
        return bytes((_FINAL_TEXT, size)) + payload
    if size < _MEDIUM:
        return bytes((_FINAL_TEXT, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_FINAL_TEXT, 127)) + size.to_bytes(8, "big") + payload


class Frame:
    """Stands where engineio expects one of its packets (`packet_type`, `data`, `encode`). `key`: a newer one replaces it."""

    packet_type = engine.MESSAGE
    binary = False

    __slots__ = ("key", "payload", "wire")

    def __init__(self, payload: bytes, key: str | None = None) -> None:
        self.payload = payload
        self.wire = websocket_text(payload)
        self.key = key

    @property
    def data(self) -> str:
        return self.payload[1:].decode()

    def encode(self, b64: bool = False) -> str:
        """The form of long-polling; the name and its argument are engineio's."""
        return self.payload.decode()


def event_frame(name: str, body: bytes, key: str | None = None) -> Frame:
    """`body` is JSON. `name` comes from the catalogue, so it needs no escaping."""
    return Frame(b'42["%s",%s]' % (name.encode(), body), key)


def ack_frame(number: int, body: bytes, namespace: str = "/") -> Frame:
    """The acknowledgement of event `number`, with one argument."""
    where = b"" if namespace == "/" else namespace.encode() + b","
    return Frame(b"43%s%d[%s]" % (where, number, body))
