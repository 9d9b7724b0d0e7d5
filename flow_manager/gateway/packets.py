"""Socket.IO packets, read strictly (protocol revision 5: https://socket.io/docs/v4/socket-io-protocol/).

The header is read before the JSON, so that a packet whose JSON is refused still has its acknowledgement id and is answered
instead of killing the connection or leaving its sender waiting. Measured traps behind this: NaN is taken in and sent on to
everybody; an object 900 levels deep is taken in and then breaks `emit`; the number of binary attachments is unchecked
(one client made a server hold 180 MB); an event named `connect` runs the connect handler with whatever the client made up.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from socketio import packet

from flow_manager.errors import InvalidRequest, PayloadTooLarge, ValidationFailure
from flow_manager.util import strict_json

# Names that mean something to a Socket.IO library on either side (https://socket.io/docs/v4/emit-cheatsheet/#reserved-events).
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
MAX_EVENT_NAME = 128
# The brackets, quotes and event's name around the payload, which don't count as payload.
ENVELOPE = 256
# What a CONNECT may carry: a token, and what a client's own fields add. It is read before anybody has proved who they are.
MAX_CONTROL = 64 * 1024
# Type, attachments, namespace, acknowledgement id. A JavaScript client counts ids from 0: 15 digits outlast any connection.
_HEADER = re.compile(rb"([0-6])(?:([0-9]{1,10})-)?(?:(/[^,]{0,255})(?:,|\Z))?([0-9]{0,15})(?![0-9])")

# The events that take one binary attachment, and where.
BINARY_FIELDS = {"terminal_input": "data"}
# What stands in the attachment's place (Socket.IO protocol, "Binary events").
PLACEHOLDER = {"_placeholder": True, "num": 0}
NO_PAYLOAD: dict[str, Any] = {}


class Header(NamedTuple):
    """What stands before the JSON. `id`: the sender waits for an acknowledgement of that number."""

    type: int
    attachments: int
    namespace: str
    id: int | None
    body: bytes


class Event(NamedTuple):
    """A client's event, judged: either a name and its payload, or why it is refused.

    `awaits`: the field of the payload that the one binary attachment, which comes next, is to fill.
    """

    id: int | None
    name: str = ""
    payload: Any = None
    refusal: ValidationFailure | None = None
    awaits: str | None = None


def read_header(raw: bytes) -> Header:
    """Split a packet.

    :raises InvalidRequest: when it has no header of the protocol.
    """
    match = _HEADER.match(raw)
    if match is None:
        raise InvalidRequest("not a Socket.IO packet")
    kind, attachments, namespace, number = match.groups()
    try:
        path = namespace.decode() if namespace else "/"
    except UnicodeDecodeError:
        raise InvalidRequest("not a Socket.IO packet") from None
    return Header(int(kind), int(attachments or 0), path, int(number) if number else None, raw[match.end() :])


def read_event(header: Header, max_payload: int) -> Event:
    """Judge an EVENT or BINARY_EVENT; never raises."""
    binary = header.type == packet.BINARY_EVENT
    if binary != (header.attachments > 0) or header.attachments > 1:
        return Event(
            header.id,
            refusal=InvalidRequest("an event takes one binary attachment at most", attachments=header.attachments),
        )
    body = header.body
    if len(body) > max_payload + ENVELOPE:
        return Event(
            header.id,
            refusal=PayloadTooLarge(
                f"the payload has {len(body)} bytes; at most {max_payload} are taken", limit=max_payload, size=len(body)
            ),
        )
    try:
        data = strict_json.loads(body)
    except strict_json.JsonRefused as exc:
        return Event(header.id, refusal=InvalidRequest(f"the payload is refused: {exc}"))
    event = judge_event(header.id, data)
    return _with_binary(event) if binary and event.refusal is None else event


def _with_binary(event: Event) -> Event:
    field = BINARY_FIELDS.get(event.name)
    if field is None:
        reason = f"'{event.name}' takes no binary data"
    elif type(event.payload) is dict and event.payload.get(field) == PLACEHOLDER:
        return event._replace(awaits=field)
    else:
        reason = f"the attachment belongs into '{field}'"
    return Event(event.id, event.name, refusal=InvalidRequest(reason, event=event.name, attachments=1))


def completed(event: Event, attachment: bytes, max_payload: int) -> Event:
    """The event with the attachment that it awaited. The placeholder's place alone is filled, whatever else is in there."""
    if len(attachment) > max_payload:
        refusal = PayloadTooLarge(
            f"the attachment has {len(attachment)} bytes; at most {max_payload} are taken",
            limit=max_payload,
            size=len(attachment),
        )
        return Event(event.id, event.name, refusal=refusal)
    assert event.awaits is not None
    return event._replace(payload={**event.payload, event.awaits: attachment}, awaits=None)


def incomplete(event: Event) -> Event:
    """The event whose attachment did not come next."""
    reason = "the binary attachment that it announced did not come next"
    return Event(event.id, event.name, refusal=InvalidRequest(reason, event=event.name))


def judge_event(number: int | None, data: Any) -> Event:
    """`[name]` or `[name, payload]`; no payload, or null, counts as `{}`."""
    if type(data) is not list or not data:
        return Event(number, refusal=InvalidRequest("an event is a list: its name, then its payload"))
    name = data[0]
    if type(name) is not str or not name or len(name) > MAX_EVENT_NAME:
        return Event(number, refusal=InvalidRequest(f"an event's name is text of 1 to {MAX_EVENT_NAME} characters"))
    if name in RESERVED_EVENTS:
        return Event(number, refusal=InvalidRequest(f"'{name}' is reserved by the protocol", event=name))
    if len(data) > 2:
        return Event(number, refusal=InvalidRequest("an event takes one payload", event=name))
    payload = data[1] if len(data) == 2 and data[1] is not None else NO_PAYLOAD
    return Event(number, name, payload)


class StrictPacket(packet.Packet):  # type: ignore[misc]
    """python-socketio's packet with a strict reader, for all that is no event. `refusal` says what is wrong with one that could not be read whole."""

    json = strict_json
    refusal: ValidationFailure | None = None

    def decode(self, encoded_packet: str | bytes) -> int:
        """Never raises: an unreadable packet gets the type -1, which no handler takes. No attachment is ever waited for."""
        raw = encoded_packet if isinstance(encoded_packet, bytes) else str(encoded_packet).encode("utf-8", "replace")
        self.namespace, self.data, self.id = None, None, None
        try:
            header = read_header(raw)
        except InvalidRequest as exc:
            self.packet_type, self.refusal = -1, exc
            return 0
        self.packet_type, self.namespace, self.id = header.type, header.namespace, header.id
        if header.attachments:
            self.refusal = InvalidRequest("this packet takes no binary data", attachments=header.attachments)
        elif len(header.body) > MAX_CONTROL:
            reason = f"the packet has {len(header.body)} bytes; at most {MAX_CONTROL} are taken"
            self.refusal = PayloadTooLarge(reason, limit=MAX_CONTROL, size=len(header.body))
        elif header.body:
            try:
                self.data = strict_json.loads(header.body)
            except strict_json.JsonRefused as exc:
                self.refusal = InvalidRequest(f"the payload is refused: {exc}")
        return 0
