"""What each kind of frame does to the connection that it came over. Gives the answer's bytes, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flow_manager.channel import frames
from flow_manager.channel.frames import Frame, Refusal
from flow_manager.channel.throttle import BadLines

if TYPE_CHECKING:
    from flow_manager.channel.connection import Connection

# Wire contract, section 7: so many bad lines a second end the connection.
BAD_LINES_A_SECOND = 10


def _hello(connection: Connection, hello: frames.Hello) -> None:
    connection.acks = hello.acks


def _ack(connection: Connection, ack: frames.Ack) -> None:
    pending = connection.pending.get(ack.to)
    if pending is not None:
        connection.bucket.tokens += 1
        pending.acknowledged()


def _reply(connection: Connection, reply: frames.Reply) -> bytes | None:
    # One that is waited for never gets here: `Connection` takes it at once.
    if connection.owner.issued(reply.to):
        # Late, or not asked for: many a flow simply answers everything.
        return None
    return frames.encode_error(frames.UNKNOWN_MESSAGE, "no message with this id was sent", to=reply.to)


def _message(connection: Connection, message: frames.Message) -> bytes | None:
    connection.owner.said(message.body)
    return None if message.id is None else frames.encode_ack(message.id)


def _ping(_connection: Connection, _frame: frames.Ping) -> bytes:
    return frames.PONG


def _pong(_connection: Connection, _frame: frames.Pong) -> None:
    pass


def _other(connection: Connection, frame: Frame) -> None:
    connection.owner.heard(frame)


def _refusal(connection: Connection, refusal: Refusal) -> bytes:
    if refusal.code == frames.BAD_FRAME:
        connection.owner.heard(refusal)
        if connection.bad_lines is None:
            connection.bad_lines = BadLines(BAD_LINES_A_SECOND, connection.monotonic)
        connection.bad_lines.add()
    return frames.encode_error(refusal.code, refusal.reason)


TAKE: dict[type, Callable[[Connection, Any], bytes | None]] = {
    frames.Hello: _hello,
    frames.Ack: _ack,
    frames.Reply: _reply,
    frames.Message: _message,
    frames.ActorEvent: _other,
    frames.Ready: _other,
    frames.Busy: _other,
    frames.Idle: _other,
    frames.Ping: _ping,
    frames.Pong: _pong,
    Refusal: _refusal,
}
