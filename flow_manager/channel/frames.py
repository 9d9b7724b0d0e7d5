"""The codec of the channel: bytes in, frames or refusals out. No I/O (wire contract, section 7).

One JSON object a line (NDJSON, UTF-8). Fields that are not known are ignored. An object without `type` is a message whose
body is the whole object. `\\r\\n`, a byte order mark and blank lines are what editors and other systems' tools leave behind:
they are taken without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flow_manager.util.strict_json import JsonRefused, dumps_line, loads

BAD_FRAME = "bad_frame"
UNKNOWN_TYPE = "unknown_type"
UNKNOWN_MESSAGE = "unknown_message"
FRAME_TOO_LARGE = "frame_too_large"
TAKEN_OVER = "taken_over"
INTERNAL = "internal"
UNAUTHORIZED = "unauthorized"

# An id or a name longer than this is no name; it would be carried through logs and activity.
MAX_NAME = 256
# A reason is for people; the rest of a longer one is cut.
MAX_REASON = 1000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"
_ABSENT = object()


class Hello(NamedTuple):
    """The flow introduces itself; `acks`: it acknowledges every message that it gets."""

    acks: bool


class Ack(NamedTuple):
    to: str


class Reply(NamedTuple):
    to: str
    body: Any


class Message(NamedTuple):
    """Sent by the flow on its own; acknowledged when it carries an `id`."""

    id: str | int | None
    body: Any


class ActorEvent(NamedTuple):
    actor: str
    event: str
    details: dict[str, Any]


class Ready(NamedTuple):
    pass


class Busy(NamedTuple):
    """`seconds` as the flow said it, above 0 and finite; clamping to `max_busy` is the receiver's."""

    seconds: float
    reason: str | None


class Idle(NamedTuple):
    pass


class Ping(NamedTuple):
    """Not in the contract's table for this direction; answered, because a flow may want to know that we live."""


class Pong(NamedTuple):
    pass


class Refusal(NamedTuple):
    """A line that is no frame. `reason` never repeats what the flow sent: it goes to activity and logs."""

    code: str
    reason: str


Frame = Hello | Ack | Reply | Message | ActorEvent | Ready | Busy | Idle | Ping | Pong | Refusal


class LineSplitter:
    """Cuts a byte stream into lines, whatever pieces it comes in. Holds at most `limit` bytes of an unfinished line."""

    __slots__ = ("_limit", "overflow", "partial")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The unfinished line; None between two lines.
        self.partial: bytearray | None = None
        # A line grew past the limit: nothing more is taken, for where the next line starts can't be known.
        self.overflow = False

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The lines that `data` completes, without their newline; those before an overflow are still given."""
        if self.overflow:
            return ()
        partial = self.partial
        if partial is not None:
            # Only the new bytes are searched: a line of 1 MiB that comes byte by byte must not cost its square.
            cut = data.find(b"\n")
            if cut < 0:
                partial += data
                if len(partial) > self._limit:
                    self._overflowed()
                return ()
            partial += data[:cut]
            first = bytes(partial)
            lines = [first, *data[cut + 1 :].split(b"\n")]
        else:
            lines = data.split(b"\n")
        tail = lines.pop()
        self.partial = bytearray(tail) if tail else None
        if partial is not None or len(data) > self._limit:
            return self._within_limit(lines, tail)
        return lines

    def _within_limit(self, lines: list[bytes], tail: bytes) -> list[bytes]:
        for index, line in enumerate(lines):
            if len(line) > self._limit:
                self._overflowed()
                return lines[:index]
        if len(tail) > self._limit:
            self._overflowed()
        return lines

    def _overflowed(self) -> None:
        self.overflow = True
        self.partial = None


def parse(line: bytes) -> Frame | None:
    """What one line says; None for a blank one. Never raises."""
    try:
        data = loads(line)
    except JsonRefused as refused:
        stripped = line.removeprefix(_BYTE_ORDER_MARK)
        if not stripped.strip(_WHITESPACE):
            return None
        if len(stripped) < len(line):
            return parse(stripped)
        return Refusal(BAD_FRAME, str(refused))
    return frame_of(data)


def frame_of(data: Any) -> Frame:
    """What a line says whose JSON was read already. Never raises."""
    if type(data) is not dict:
        return Refusal(BAD_FRAME, "not a JSON object")
    kind = data.get("type", _ABSENT)
    try:
        reader = _READERS[kind]
    except (KeyError, TypeError):  # TypeError: a list or an object can't be looked up
        return Message(None, data) if kind is _ABSENT else Refusal(UNKNOWN_TYPE, "no such type of frame")
    try:
        return reader(data)
    except _Wrong as wrong:
        return Refusal(BAD_FRAME, str(wrong))


class _Wrong(Exception):
    """A field that can't be taken; the text says which, and why."""


def _name(data: dict[str, Any], field: str) -> str:
    value = data.get(field)
    if type(value) is not str or not 0 < len(value) <= MAX_NAME:
        raise _Wrong(f"'{field}' must be text of 1 to {MAX_NAME} characters")
    return value


def _hello(data: dict[str, Any]) -> Hello:
    acks = data.get("acks", False)
    if type(acks) is not bool:
        raise _Wrong("'acks' must be true or false")
    return Hello(acks)


def _ack(data: dict[str, Any]) -> Ack:
    return Ack(_name(data, "to"))


def _reply(data: dict[str, Any]) -> Reply:
    return Reply(_name(data, "to"), data.get("body"))


def _message(data: dict[str, Any]) -> Message:
    message_id = data.get("id")
    if message_id is not None and type(message_id) is not int:
        message_id = _name(data, "id")
    body = data.get("body", _ABSENT)
    if body is _ABSENT:
        # Taken silently, `{"type":"message","text":"hi"}` would arrive as nothing and nobody would know why.
        raise _Wrong("'body' is missing")
    return Message(message_id, body)


def _actor_event(data: dict[str, Any]) -> ActorEvent:
    details = data.get("details")
    if details is None:
        details = {}
    elif type(details) is not dict:
        raise _Wrong("'details' must be an object")
    return ActorEvent(_name(data, "actor"), _name(data, "event"), details)


def _busy(data: dict[str, Any]) -> Busy:
    seconds = data.get("for")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise _Wrong("'for' must be a number of seconds above 0")
    reason = data.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise _Wrong("'reason' must be text")
    return Busy(float(seconds), reason if reason is None else reason[:MAX_REASON])


_READERS: dict[Any, Callable[[dict[str, Any]], Frame]] = {
    "hello": _hello,
    "ack": _ack,
    "reply": _reply,
    "message": _message,
    "actor_event": _actor_event,
    "ready": lambda _data: Ready(),
    "busy": _busy,
    "idle": lambda _data: Idle(),
    "ping": lambda _data: Ping(),
    "pong": lambda _data: Pong(),
}

# --- to the flow ------------------------------------------------------------------------------------------------------

PING = b'{"type":"ping"}\n'
PONG = b'{"type":"pong"}\n'


def encode_message(message_id: str, body: Any) -> bytes:
    """A message's line. The order of its fields is kept: `body` comes last, so that a shell can cut it out.

    :raises JsonRefused: when `body` is not plain JSON data.
    """
    return dumps_line({"type": "message", "id": message_id, "body": body})


def encode_ack(message_id: str | int) -> bytes:
    return dumps_line({"type": "ack", "to": message_id})


def encode_error(code: str, reason: str | None = None, *, to: str | None = None) -> bytes:
    frame = {"type": "error", "code": code}
    if to is not None:
        frame["to"] = to
    if reason is not None:
        frame["reason"] = reason
    return dumps_line(frame)


def encode_stopping(seconds: float) -> bytes:
    whole = int(seconds) if seconds == int(seconds) else seconds
    return dumps_line({"type": "stopping", "in": whole})
