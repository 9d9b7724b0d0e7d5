"""The TLS port for flows on other machines: who is let in, and what it costs to be turned away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flow_manager.channel import door as door_module
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.errors import QueueFull, ReplyTimeout
from flow_manager.settings.models import ChannelSettings
from flow_manager.testing import eventually
from flow_manager.util.clock import SystemClock

# The service runs on either loop.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

REMOTE = "ddddeeeeffff"
OTHER = "gggghhhhiiii"
DEADLINE = 5.0
LISTEN = {"tls_listen": "127.0.0.1:0"}
Opener = Callable[..., Awaitable[SocketCommunicationHandler]]


def client_context(handler: SocketCommunicationHandler) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b64decode(handler.remote_variables(REMOTE)["FLOW_CA"]))


def port_of(handler: SocketCommunicationHandler) -> int:
    port = urlsplit(handler.remote_url).port
    assert port is not None
    return port


class RemoteFlow:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, **frame: Any) -> None:
        self.writer.write(json.dumps(frame).encode() + b"\n")
        await self.writer.drain()

    async def hello(self, token: Any, flow_id: Any = REMOTE, **more: Any) -> None:
        await self.say(type="hello", contract=1, flow_id=flow_id, token=token, **more)

    async def frame(self) -> dict[str, Any]:
        """The next line; `{}` at the end of the connection."""
        async with asyncio.timeout(DEADLINE):
            line = await self.reader.readline()
        return json.loads(line) if line else {}

    async def is_refused(self) -> None:
        refusal = await self.frame()
        assert (refusal["type"], refusal["code"]) == ("error", "unauthorized")
        assert await self.frame() == {}

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def open_remote(sockets_dir: Path, listener: Any) -> AsyncIterator[Opener]:
    """Makes handlers with a TLS port, at which the flow REMOTE is expected."""
    made: list[SocketCommunicationHandler] = []

    async def make(**settings: Any) -> SocketCommunicationHandler:
        handler = SocketCommunicationHandler(
            sockets_dir,
            ChannelSettings(**LISTEN | settings),
            listener,
            SystemClock(),
            secrets_dir=sockets_dir.with_name("secrets"),
        )
        made.append(handler)
        await handler.open()
        handler.expect_remote(REMOTE)
        handler.welcome_remote()
        return handler

    yield make
    for handler in made:
        await handler.close()


@pytest.fixture
async def remote(open_remote: Opener) -> SocketCommunicationHandler:
    return await open_remote()


@pytest.fixture
async def come() -> AsyncIterator[Callable[..., Awaitable[RemoteFlow]]]:
    """Connects to a handler's TLS port, without a word."""
    flows: list[RemoteFlow] = []

    async def one(handler: SocketCommunicationHandler, context: ssl.SSLContext | None = None) -> RemoteFlow:
        streams = await asyncio.open_connection(
            "127.0.0.1", port_of(handler), ssl=context or client_context(handler), limit=2**22
        )
        flows.append(RemoteFlow(*streams))
        return flows[-1]

    yield one
    for flow in flows:
        flow.close()


def token_of(handler: SocketCommunicationHandler, flow_id: str = REMOTE) -> str:
    return handler.remote_variables(flow_id)["FLOW_TOKEN"]


async def in_door(come: Any, handler: SocketCommunicationHandler, listener: Any, **hello: Any) -> RemoteFlow:
    before = len(listener.named("connected"))
    flow: RemoteFlow = await come(handler)
    await flow.hello(token_of(handler), **hello)
    await listener.heard("connected", before + 1)
    return flow


async def test_a_flow_with_its_token_speaks_the_same_lines_as_one_here(
    remote: SocketCommunicationHandler, come: Any, listener: Any
) -> None:
    flow = await in_door(come, remote, listener, acks=True)
    assert listener.calls == [("connected", REMOTE)]
    assert remote.is_socket_connected(REMOTE)
    asking = asyncio.create_task(remote.send_message(REMOTE, {"a": 1}, expect_reply=True, timeout=5))
    message = await flow.frame()
    assert message["body"] == {"a": 1}
    await flow.say(type="ack", to=message["id"])
    await flow.say(type="reply", to=message["id"], body={"b": 2})
    assert (await asking).reply == {"b": 2}
    await flow.say(type="message", id="mine", body="hi")
    assert await flow.frame() == {"type": "ack", "to": "mine"}
    await flow.say(type="ping")
    assert await flow.frame() == {"type": "pong"}
    await flow.say(type="ready")
    assert await listener.heard("ready") == [(REMOTE,)]
    assert listener.named("message") == [(REMOTE, "hi")]
    assert remote.last_communication(REMOTE) is not None
    remote.announce_stopping(REMOTE, 10)
    assert await flow.frame() == {"type": "stopping", "in": 10}


async def test_what_comes_with_the_hello_in_one_piece_is_taken(
    remote: SocketCommunicationHandler, come: Any, listener: Any
) -> None:
    flow = await come(remote)
    lines = [
        {"type": "hello", "flow_id": REMOTE, "token": token_of(remote)},
        {"type": "ready"},
        {"type": "message", "body": "x" * 200_000},
    ]
    flow.writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    await listener.heard("message")
    assert [call[0] for call in listener.calls] == ["connected", "ready", "message"]


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param({"token": "wrong"}, id="a wrong token"),
        pytest.param({"token": ""}, id="an empty token"),
        pytest.param({"token": None}, id="a token that is no text"),
        pytest.param({"token": "\ud800"}, id="a lone surrogate"),
        pytest.param({"token": "x" * 1000}, id="a long token"),
        pytest.param({"flow_id": "../../etc/aa"}, id="no id"),
        pytest.param({"flow_id": 12}, id="an id that is no text"),
        pytest.param({"type": "message", "body": {}}, id="another frame first"),
        pytest.param({"flow_id": OTHER}, id="another flow's id"),
        pytest.param({"flow_id": "jjjjkkkkllll"}, id="an unknown flow"),
    ],
)
async def test_who_shows_no_right_token_is_refused(
    remote: SocketCommunicationHandler, come: Any, listener: Any, hello: dict[str, Any]
) -> None:
    remote.expect_remote(OTHER)
    flow = await come(remote)
    await flow.say(**{"type": "hello", "contract": 1, "flow_id": REMOTE, "token": token_of(remote)} | hello)
    await flow.is_refused()
    assert listener.calls == []


@pytest.mark.parametrize("line", [b"\n", b"GET / HTTP/1.1\r\n", b"[]\n", b"\xff\xfe\n", b'{"type":"hello"\n', b"{}\n"])
async def test_a_first_line_that_is_no_hello_is_refused(
    remote: SocketCommunicationHandler, come: Any, line: bytes
) -> None:
    flow = await come(remote)
    flow.writer.write(line)
    await flow.is_refused()


async def test_a_flow_that_is_not_expected_is_refused_with_its_own_token(
    remote: SocketCommunicationHandler, come: Any, listener: Any
) -> None:
    flow = await in_door(come, remote, listener)
    await remote.cleanup_socket(REMOTE, remove_folder=True)
    assert await flow.frame() == {}, "its connection ends with it"
    again = await come(remote)
    await again.hello(token_of(remote))
    await again.is_refused()


async def test_a_flow_with_a_socket_here_can_not_be_spoken_for_from_outside(
    remote: SocketCommunicationHandler, come: Any, flow_id: str
) -> None:
    await remote.setup_socket(flow_id)
    flow = await come(remote)
    await flow.hello(token_of(remote, flow_id), flow_id=flow_id)
    await flow.is_refused()


async def test_a_client_without_tls_is_told_so(remote: SocketCommunicationHandler) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(remote))
    writer.write(b'{"type":"hello"}\n')
    async with asyncio.timeout(DEADLINE):
        assert json.loads(await reader.readline())["reason"] == "this port speaks TLS"
        assert await reader.read() == b""
    writer.close()


async def test_rubbish_in_the_place_of_a_handshake_ends_the_connection(remote: SocketCommunicationHandler) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(remote))
    writer.write(b"\x16\x03\x01\x00\x05rubbish of a record")
    async with asyncio.timeout(DEADLINE):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
async def test_old_tls_is_refused(remote: SocketCommunicationHandler, come: Any, version: str) -> None:
    context = client_context(remote)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion[version]
        context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        await come(remote, context)


@pytest.mark.parametrize("where", ["before the handshake", "after it", "in half a line"])
async def test_who_says_nothing_is_shown_out(
    open_remote: Opener, come: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(door_module, "HELLO_WITHIN", 0.3)
    handler = await open_remote()
    if where == "before the handshake":
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(handler))
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        writer.close()
    else:
        flow = await come(handler)
        if where == "in half a line":
            flow.writer.write(b'{"type":"hello",')
        await flow.is_refused()
    await eventually(lambda: not visitors(handler))


def visitors(handler: SocketCommunicationHandler) -> set[Any]:
    door = handler._remote._door
    assert door is not None
    return door._visitors


async def test_a_first_line_without_an_end_is_cut_at_a_few_kilobytes(
    remote: SocketCommunicationHandler, come: Any
) -> None:
    flow = await come(remote)
    flow.writer.write(b"x" * 5000)
    await flow.is_refused()


async def test_who_has_gone_before_saying_a_word_leaves_nothing(remote: SocketCommunicationHandler, come: Any) -> None:
    for _ in range(5):
        flow = await come(remote)
        flow.close()
    await eventually(lambda: not visitors(remote))


async def test_only_so_many_may_stand_in_the_door(
    open_remote: Opener, come: Any, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "VISITORS_OF_ONE", 3)
    handler = await open_remote()
    silent = [socket.create_connection(("127.0.0.1", port_of(handler))) for _ in range(3)]
    try:
        await eventually(lambda: len(visitors(handler)) == 3)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await come(handler)
    finally:
        for connection in silent:
            connection.close()
    await eventually(lambda: not visitors(handler))
    await in_door(come, handler, listener)


async def test_an_address_that_fails_too_often_is_not_listened_to_for_a_while(
    open_remote: Opener, come: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.channel.failures.FAILURES_AT_ONCE", 3)
    monkeypatch.setattr("flow_manager.channel.failures.FAILURES_A_SECOND", 0.001)
    handler = await open_remote()
    for _ in range(3):
        flow = await come(handler)
        await flow.hello("wrong")
        await flow.is_refused()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await come(handler)
    assert caplog.text.count("was refused") == 3


async def test_no_log_holds_a_token(
    remote: SocketCommunicationHandler, come: Any, listener: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await in_door(come, remote, listener)
    wrong = await come(remote)
    await wrong.hello("a-token-of-somebody-else")
    await wrong.is_refused()
    assert "refused" in caplog.text
    assert token_of(remote) not in caplog.text
    assert "a-token-of-somebody-else" not in caplog.text


async def test_a_newer_connection_takes_over_and_a_stranger_does_not(
    remote: SocketCommunicationHandler, come: Any, listener: Any
) -> None:
    first = await in_door(come, remote, listener)
    stranger = await come(remote)
    await stranger.hello("wrong")
    await stranger.is_refused()
    assert remote.is_socket_connected(REMOTE)
    second = await in_door(come, remote, listener)
    assert (await first.frame())["code"] == "taken_over"
    assert await first.frame() == {}
    await second.say(type="ping")
    assert await second.frame() == {"type": "pong"}


async def test_bad_lines_and_long_ones_are_answered_as_on_a_socket(
    open_remote: Opener, come: Any, listener: Any
) -> None:
    handler = await open_remote(max_line=10_000)
    flow = await in_door(come, handler, listener)
    flow.writer.write(b"rubbish\n")
    assert (await flow.frame())["code"] == "bad_frame"
    flow.writer.write(b"x" * 20_000)
    assert (await flow.frame())["code"] == "frame_too_large"
    assert await flow.frame() == {}


async def test_a_flow_that_does_not_read_costs_a_bounded_queue(open_remote: Opener, come: Any, listener: Any) -> None:
    handler = await open_remote(outbox=65536, write_timeout=0.2)
    flow = await in_door(come, handler, listener)
    flow.writer.transport.pause_reading()
    with pytest.raises((ReplyTimeout, QueueFull)) as refused:
        for _ in range(2000):
            await handler.send_message(REMOTE, {"x": "y" * 60_000}, timeout=5)
    assert refused.value.code in ("timeout", "queue_full")
    connection = handler._channels[REMOTE].connection
    assert connection is not None
    assert connection._transport._outgoing.pending == 0, "what is not in the kernel waits in one place"  # type: ignore[attr-defined]
    flow.writer.transport.resume_reading()
    await eventually(lambda: not connection._writer.blocked)


async def test_a_flow_that_says_too_much_is_read_more_slowly_and_loses_nothing(
    open_remote: Opener, come: Any, listener: Any
) -> None:
    handler = await open_remote(messages_per_second=200)
    flow = await in_door(come, handler, listener)
    for n in range(400):
        flow.writer.write(b'{"type":"message","body":%d}\n' % n)
    await listener.heard("message", 400)
    assert [body for _, body in listener.named("message")] == list(range(400))


async def test_a_flow_that_vanishes_is_asked_by_the_kernel(
    remote: SocketCommunicationHandler, come: Any, listener: Any
) -> None:
    await in_door(come, remote, listener)
    connection = remote._channels[REMOTE].connection
    assert connection is not None
    raw = connection._transport._raw.get_extra_info("socket")  # type: ignore[attr-defined]
    assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_half_a_goodbye_ends_the_connection(remote: SocketCommunicationHandler, come: Any, listener: Any) -> None:
    flow = await in_door(come, remote, listener)
    flow.writer.transport.get_extra_info("socket")
    flow.close()
    await listener.heard("disconnected")
    assert not remote.is_socket_connected(REMOTE)


async def test_tokens_and_authority_survive_a_restart(open_remote: Opener, come: Any, listener: Any) -> None:
    first = await open_remote()
    before = first.remote_variables(REMOTE)
    await first.close()
    second = await open_remote(tls_listen=f"127.0.0.1:{urlsplit(before['FLOW_URL']).port}")
    assert second.remote_variables(REMOTE) == before
    await in_door(come, second, listener)


async def test_nobody_is_let_in_before_the_flows_are_known(sockets_dir: Path, listener: Any, come: Any) -> None:
    handler = SocketCommunicationHandler(sockets_dir, ChannelSettings(**LISTEN), listener, SystemClock())
    await handler.open()
    try:
        coming = asyncio.create_task(come(handler))
        done, _ = await asyncio.wait({coming}, timeout=0.05)
        assert not done, "the kernel keeps it waiting"
        handler.expect_remote(REMOTE)
        handler.welcome_remote()
        flow = await coming
        await flow.hello(token_of(handler))
        await listener.heard("connected")
    finally:
        await handler.close()


async def test_without_the_port_a_remote_flow_has_no_channel(handler: SocketCommunicationHandler) -> None:
    assert handler.remote_variables(REMOTE) == {}
    assert handler.remote_url == ""
    handler.welcome_remote()
