"""What goes to a client, encoded once however many clients get it. Pure.

A frame is an Engine.IO MESSAGE (`4`) that holds a Socket.IO packet (`2` event, `3` acknowledgement), in both forms in which
it may travel: the text of a long-polling payload, and the bytes of a WebSocket frame (RFC 6455, section 5.2: final, text,
unmasked, because a server never masks).
"""

from __future__ import annotations

import base64
from typing import Any

from engineio import packet as engine

_FINAL_TEXT = 0x81
_FINAL_BINARY = 0x82
_SHORT = 126
_MEDIUM = 1 << 16


def websocket_text(payload: bytes) -> bytes:
    """One unmasked text frame."""
    return _head(_FINAL_TEXT, len(payload)) + payload


def _head(kind: int, size: int) -> bytes:
    if size < _SHORT:
        return bytes((kind, size))
    if size < _MEDIUM:
        return bytes((kind, 126)) + size.to_bytes(2, "big")
    return bytes((kind, 127)) + size.to_bytes(8, "big")


class Attachment:
    """The second half of a binary event, as engineio's long-polling wants it: base64 behind a `b`."""

    packet_type = engine.MESSAGE
    binary = True

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def encode(self, b64: bool = False) -> str:
        return "b" + base64.b64encode(self.data).decode()


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
    def size(self) -> int:
        return len(self.payload)

    def packets(self) -> list[Any]:
        """What long-polling sends for it, in order."""
        return [self]

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


class BinaryFrame(Frame):
    """An event with one binary attachment: two messages, which nothing may come between (Socket.IO protocol, "Binary").

    One object, so that nothing can: it is queued, written and polled whole.
    """

    __slots__ = ("attachment",)

    def __init__(self, payload: bytes, attachment: bytes) -> None:
        self.payload = payload
        self.wire = b"".join((websocket_text(payload), _head(_FINAL_BINARY, len(attachment)), attachment))
        self.key = None
        self.attachment = attachment

    @property
    def size(self) -> int:
        return len(self.payload) + len(self.attachment)

    def packets(self) -> list[Any]:
        return [self, Attachment(self.attachment)]


def binary_event_frame(name: str, fields: bytes, field: str, attachment: bytes) -> BinaryFrame:
    """`fields`: the JSON members before the binary one, without braces, not empty."""
    header = b'451-["%s",{%s,"%s":{"_placeholder":true,"num":0}}]' % (name.encode(), fields, field.encode())
    return BinaryFrame(header, attachment)
