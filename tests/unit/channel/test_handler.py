"""Messages to a flow and from it, over a real socket, on both event loops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.channel.listener import ChannelListener
from flow_manager.errors import (
    CommunicationFailure,
    FrameTooLarge,
    InvalidRequest,
    NotConnected,
    ReplyTimeout,
    SystemFailure,
)
from flow_manager.settings.models import ChannelSettings
from flow_manager.testing import eventually
from flow_manager.testing.clock import FakeClock
from flow_manager.util.clock import SystemClock

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Connect = Callable[[], Awaitable[Any]]


async def started(work: Awaitable[Any]) -> asyncio.Task[Any]:
    """A task that has come to its first wait."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


# --- to the flow ------------------------------------------------------------------------------------------------------


async def test_a_message_is_delivered_once_it_is_written(handler: Any, connect: Connect, flow_id: str) -> None:
    flow = await connect()
    delivery = await handler.send_message(flow_id, {"n": 1})
    assert (delivery.delivered, delivery.replied, delivery.reply) == (True, False, None)
    assert await flow.frame() == {"type": "message", "id": delivery.message_id, "body": {"n": 1}}


async def test_a_reply_reaches_the_one_who_asked(handler: Any, connect: Connect, flow_id: str) -> None:
    flow = await connect()
    asking = [await started(handler.send_message(flow_id, {"n": n}, expect_reply=True)) for n in range(3)]
    frames = [await flow.frame() for _ in asking]
    for frame in reversed(frames):
        await flow.say(type="reply", to=frame["id"], body={"twice": frame["body"]["n"] * 2})
    deliveries = await asyncio.gather(*asking)
    assert [delivery.reply for delivery in deliveries] == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
    assert all(delivery.replied and delivery.delivered for delivery in deliveries)
    assert len({delivery.message_id for delivery in deliveries}) == 3


async def test_a_flow_that_said_acks_has_to_acknowledge(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(ack_timeout=0.05)
    flow = await connect()
    await flow.say(type="hello", contract=1, acks=True)
    await flow.say(type="ready")
    await listener.heard("ready")
    task = await started(handler.send_message(flow_id, {}))
    frame = await flow.frame()
    assert not task.done()
    await flow.say(type="ack", to=frame["id"])
    assert (await task).delivered
    with pytest.raises(ReplyTimeout) as caught:
        await handler.send_message(flow_id, {}, timeout=10)
    assert caught.value.details["waited_for"] == "ack"
    assert caught.value.details["timeout"] == 0.05


async def test_a_reply_counts_as_the_acknowledgement(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler()
    flow = await connect()
    await flow.say(type="hello", acks=True)
    await flow.say(type="ready")
    await listener.heard("ready")
    for expect_reply in (True, False):
        task = await started(handler.send_message(flow_id, {}, expect_reply=expect_reply))
        await flow.say(type="reply", to=(await flow.frame())["id"], body="done")
        assert (await task).delivered


async def test_an_acknowledged_message_still_waits_for_its_reply(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    handler = await open_handler(ack_timeout=0.02)
    flow = await connect()
    await flow.say(type="hello", acks=True)
    await flow.say(type="ready")
    await listener.heard("ready")
    task = await started(handler.send_message(flow_id, {}, expect_reply=True, timeout=0.1))
    await flow.say(type="ack", to=(await flow.frame())["id"])
    with pytest.raises(ReplyTimeout) as caught:
        await task
    assert caught.value.details["waited_for"] == "reply"
    assert caught.value.details["timeout"] == 0.1


async def test_no_reply_in_time_is_a_timeout_that_says_so(handler: Any, connect: Connect, flow_id: str) -> None:
    await connect()
    with pytest.raises(ReplyTimeout, match=r"did not reply within 0\.02 s") as caught:
        await handler.send_message(flow_id, {}, expect_reply=True, timeout=0.02)
    assert caught.value.details["waited_for"] == "reply"


async def test_a_time_out_of_nothing_ends_at_once(handler: Any, connect: Connect, flow_id: str) -> None:
    await connect()
    assert (await handler.send_message(flow_id, {}, timeout=0)).delivered
    with pytest.raises(ReplyTimeout):
        await handler.send_message(flow_id, {}, expect_reply=True, timeout=0)


async def test_late_and_unasked_answers_are_ignored_and_made_up_ones_refused(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    with pytest.raises(ReplyTimeout):
        await handler.send_message(flow_id, {}, expect_reply=True, timeout=0.01)
    late = (await flow.frame())["id"]
    unasked = (await handler.send_message(flow_id, {})).message_id
    await flow.frame()
    prefix, _, count = late.rpartition("-")
    await flow.say(type="reply", to=late, body={})
    await flow.say(type="ack", to=late)
    await flow.say(type="reply", to=unasked, body={})
    await flow.say(type="ack", to="made-up")
    for made_up in ("made-up", f"{prefix}-{int(count) + 100}", f"{prefix}-0", f"{prefix}-²"):
        await flow.say(type="reply", to=made_up, body={})
        assert await flow.frame() == {
            "type": "error",
            "code": "unknown_message",
            "to": made_up,
            "reason": "no message with this id was sent",
        }
    assert listener.named("bad_frame") == []


async def test_without_a_connection_a_message_fails_at_once(handler: Any, flow_id: str) -> None:
    for unknown in (flow_id, "zzzzzzzzzzzz"):
        with pytest.raises(NotConnected):
            await handler.send_message(unknown, {})


async def test_when_the_flow_goes_what_waits_for_it_fails(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    task = await started(handler.send_message(flow_id, {}, expect_reply=True))
    await flow.frame()
    await flow.close()
    with pytest.raises(NotConnected):
        await task
    await listener.heard("disconnected")
    assert not handler.is_socket_connected(flow_id)


async def test_a_message_to_a_flow_that_has_just_gone_is_not_called_delivered(
    handler: Any, connect: Connect, flow_id: str
) -> None:
    flow = await connect()
    # Closed in the kernel, and nobody has had a turn to notice.
    with socket.socket(fileno=os.dup(flow.writer.get_extra_info("socket").fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
    for expect_reply in (False, True):
        with pytest.raises(NotConnected):
            await handler.send_message(flow_id, {}, expect_reply=expect_reply)


async def test_a_message_longer_than_a_line_is_refused_before_it_is_sent(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    handler = await open_handler(max_line=1024)
    flow = await connect()
    with pytest.raises(FrameTooLarge) as caught:
        await handler.send_message(flow_id, {"x": "y" * 1024})
    assert caught.value.details["limit"] == 1024
    assert caught.value.details["size"] > 1024
    assert (await handler.send_message(flow_id, {"small": 1})).delivered
    assert (await flow.frame())["body"] == {"small": 1}


async def test_a_body_that_is_no_json_is_an_invalid_request(handler: Any, connect: Connect, flow_id: str) -> None:
    await connect()
    for body in ({"x": object()}, {"x": {1, 2}}, {"x": "\ud800"}):
        with pytest.raises(InvalidRequest):
            await handler.send_message(flow_id, body)


async def test_a_caller_that_gives_up_leaves_nothing_waiting(handler: Any, connect: Connect, flow_id: str) -> None:
    flow = await connect()
    task = await started(handler.send_message(flow_id, {}, expect_reply=True))
    frame = await flow.frame()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handler._channels[flow_id].connection.pending == {}
    await flow.say(type="reply", to=frame["id"], body={})
    assert (await handler.send_message(flow_id, {})).delivered


async def test_stopping_is_announced_to_who_is_there(handler: Any, connect: Connect, flow_id: str) -> None:
    handler.announce_stopping(flow_id, 10)
    handler.announce_stopping("zzzzzzzzzzzz", 10)
    flow = await connect()
    handler.announce_stopping(flow_id, 10.0)
    assert await flow.frame() == {"type": "stopping", "in": 10}


# --- from the flow ----------------------------------------------------------------------------------------------------


async def test_what_a_flow_says_reaches_the_listener(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    await open_handler(max_busy=60)
    flow = await connect()
    await flow.say(type="message", id="x1", body={"a": 1})
    assert await flow.frame() == {"type": "ack", "to": "x1"}
    await flow.say(temperature=21)
    await flow.say(type="actor_event", actor="robot", event="moved", details={"to": "B"})
    await flow.say(type="ready")
    await flow.say(type="busy", reason="thinking", **{"for": 30})
    await flow.say(type="busy", **{"for": 1e9})
    await flow.say(type="idle")
    await flow.say(type="pong")
    await flow.say(type="ping")
    assert await flow.frame() == {"type": "pong"}
    assert listener.calls == [
        ("connected", flow_id),
        ("message", flow_id, {"a": 1}),
        ("message", flow_id, {"temperature": 21}),
        ("actor_event", flow_id, "robot", "moved", {"to": "B"}),
        ("ready", flow_id),
        ("busy", flow_id, 30.0, "thinking"),
        ("busy", flow_id, 60.0, None),
        ("idle", flow_id),
    ]


async def test_an_unknown_type_is_answered_and_is_no_bad_line(
    handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    flow = await connect()
    for _ in range(30):
        await flow.say(type="from_the_future")
        assert (await flow.frame())["code"] == "unknown_type"
    assert listener.named("bad_frame") == []
    assert handler.is_socket_connected(flow_id)


async def test_all_who_wait_get_the_next_message(handler: Any, connect: Connect, flow_id: str) -> None:
    waiting = [await started(handler.receive_message(flow_id, 5)) for _ in range(2)]
    flow = await connect()
    await flow.say(type="message", body="first")
    assert await asyncio.gather(*waiting) == ["first", "first"]
    with pytest.raises(ReplyTimeout) as caught:
        await handler.receive_message(flow_id, 0.01)
    assert caught.value.details == {"waited_for": "message", "timeout": 0.01}
    assert not handler._channels[flow_id]._waiters


async def test_who_waits_for_a_message_is_told_when_the_channel_closes(handler: Any, flow_id: str) -> None:
    with pytest.raises(NotConnected):
        await handler.receive_message("zzzzzzzzzzzz", 5)
    waiting = await started(handler.receive_message(flow_id, 5))
    await handler.cleanup_socket(flow_id)
    with pytest.raises(NotConnected):
        await waiting


async def test_last_communication_is_when_the_flow_spoke_and_stays_after_it_left(
    open_handler: Any, connect: Connect, listener: Any, flow_id: str
) -> None:
    clock = FakeClock()
    handler = await open_handler(clock=clock)
    assert handler.last_communication(flow_id) is None
    flow = await connect()
    assert handler.last_communication(flow_id) is None, "a connection alone says nothing"
    await flow.say(type="ready")
    await listener.heard("ready")
    spoke = clock.now()
    clock.advance(100)
    assert handler.last_communication(flow_id) == spoke
    await flow.close()
    await listener.heard("disconnected")
    clock.advance(100)
    assert handler.last_communication(flow_id) == spoke


async def test_a_listener_that_fails_does_not_end_the_connection(
    sockets_dir: Path, flow_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def __getattr__(self, name: str) -> Callable[..., None]:
            def fail(*_args: Any) -> None:
                raise RuntimeError(name)

            return fail

    failing: ChannelListener = Failing()  # type: ignore[assignment]
    handler = SocketCommunicationHandler(sockets_dir, ChannelSettings(), failing, SystemClock())
    await handler.open()
    try:
        reader, writer = await asyncio.open_unix_connection(str(await handler.setup_socket(flow_id)))
        writer.write(b'{"type":"message","id":"x","body":1}\nbad\n')
        assert await reader.readline() == b'{"type":"ack","to":"x"}\n'
        assert b"bad_frame" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: not handler.is_socket_connected(flow_id))
    finally:
        await handler.close()
    assert "flow_message" in caplog.text


# --- connections ------------------------------------------------------------------------------------------------------


async def test_a_newer_connection_takes_over(handler: Any, connect: Connect, listener: Any, flow_id: str) -> None:
    older = await connect()
    task = await started(handler.send_message(flow_id, {"for": "older"}, expect_reply=True))
    newer = await connect()
    with pytest.raises(NotConnected):
        await task
    assert [frame.get("code", frame["type"]) for frame in await older.frames_until_end()] == ["message", "taken_over"]
    assert listener.calls == [("connected", flow_id), ("disconnected", flow_id), ("connected", flow_id)]
    await handler.send_message(flow_id, {"for": "newer"})
    assert (await newer.frame())["body"] == {"for": "newer"}
    assert handler.is_socket_connected(flow_id)


async def test_setting_up_twice_keeps_the_connection(handler: Any, connect: Connect, flow_id: str) -> None:
    flow = await connect()
    inode = handler.socket_path(flow_id).stat().st_ino
    await handler.setup_socket(flow_id)
    assert handler.socket_path(flow_id).stat().st_ino == inode
    await handler.send_message(flow_id, {})
    assert (await flow.frame())["type"] == "message"


async def test_a_socket_that_the_flow_removed_is_made_anew(handler: Any, connect: Connect, flow_id: str) -> None:
    first = await connect()
    handler.socket_path(flow_id).unlink()
    await handler.setup_socket(flow_id)
    await handler.send_message(flow_id, {"still": "here"})
    assert (await first.frame())["body"] == {"still": "here"}
    await connect()
    assert handler.is_socket_connected(flow_id)


async def test_after_cleaning_up_nothing_is_left(handler: Any, connect: Connect, listener: Any, flow_id: str) -> None:
    flow = await connect()
    task = await started(handler.send_message(flow_id, {}, expect_reply=True))
    await handler.cleanup_socket(flow_id)
    with pytest.raises(NotConnected):
        await task
    assert not handler.socket_path(flow_id).exists()
    assert handler.folder(flow_id).is_dir()
    assert (await flow.frames_until_end())[-1]["type"] == "message"
    assert listener.calls[-1] == ("disconnected", flow_id)
    assert handler.last_communication(flow_id) is None
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        await asyncio.open_unix_connection(str(handler.socket_path(flow_id)))


async def test_a_flow_reconnects_to_the_next_manager_on_the_same_folder(
    open_handler: Any, connect: Connect, flow_id: str
) -> None:
    first = await open_handler()
    older = await connect()
    folder = first.folder(flow_id).stat().st_ino
    await first.close()
    assert await older.frames_until_end() == []
    second = await open_handler()
    assert second.folder(flow_id).stat().st_ino == folder, "what is mounted into the flow is this very folder"
    flow = await connect()
    await second.send_message(flow_id, {})
    assert (await flow.frame())["type"] == "message"


async def test_a_manager_that_was_killed_leaves_a_socket_that_the_next_one_replaces(
    open_handler: Any, connect: Connect, sockets_dir: Path, flow_id: str
) -> None:
    handler = await open_handler()
    stale = handler.socket_path(flow_id)
    stale.rename(stale.with_suffix(".old"))
    await handler.close()
    stale.with_suffix(".old").rename(stale)
    again = await open_handler()
    await connect()
    assert again.is_socket_connected(flow_id)


async def test_the_peers_credentials_are_known(handler: Any, connect: Connect, flow_id: str) -> None:
    await connect()
    peer = handler._channels[flow_id].connection.peer
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("own_user_only", [True, False])
async def test_another_user_is_refused_where_the_flow_runs_as_the_managers(
    open_handler: Any, listener: Any, flow_id: str, sockets_dir: Path, own_user_only: bool
) -> None:
    handler = await open_handler()
    await handler.cleanup_socket(flow_id)
    path = await handler.setup_socket(flow_id, own_user_only=own_user_only)
    # As on a file system that knows no modes: the folders keep nobody out.
    for folder in (sockets_dir, sockets_dir.parent):
        folder.chmod(0o755)
    program = "import socket,sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
    program += (
        'try:\n s.sendall(b\'{"type":"ping"}\\n\')\n sys.exit(0 if s.recv(100) else 1)\nexcept OSError:\n sys.exit(1)'
    )
    stranger = await asyncio.create_subprocess_exec(
        "setpriv", "--reuid", "65534", "--clear-groups", "--", "/usr/bin/python3", "-c", program, str(path)
    )
    refused = await asyncio.wait_for(stranger.wait(), 10)
    assert bool(refused) is own_user_only
    assert listener.named("connected") == ([] if own_user_only else [(flow_id,)])


async def test_a_closed_handler_says_so(open_handler: Any, flow_id: str) -> None:
    handler = await open_handler()
    await handler.close()
    await handler.close()
    with pytest.raises(SystemFailure, match="not open"):
        await handler.setup_socket(flow_id)
    with pytest.raises(CommunicationFailure):
        await handler.send_message(flow_id, {})


async def test_many_flows_talk_at_once(sockets_dir: Path, listener: Any) -> None:
    ids = [
        f"{number:c>12}".replace("0", "a").replace("1", "b").replace("8", "y").replace("9", "z")
        for number in range(100)
    ]
    handler = SocketCommunicationHandler(sockets_dir, ChannelSettings(), listener, SystemClock())
    await handler.open()
    streams = []
    try:
        for flow_id in ids:
            streams.append(await asyncio.open_unix_connection(str(await handler.setup_socket(flow_id))))
        await listener.heard("connected", len(ids))

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            writer.write(line.replace(b'"type":"message","id"', b'"type":"reply","to"'))

        asked = [handler.send_message(flow_id, {"you": flow_id}, expect_reply=True) for flow_id in ids]
        async with asyncio.timeout(10):
            deliveries, _ = await asyncio.gather(
                asyncio.gather(*asked), asyncio.gather(*(echo(*stream) for stream in streams))
            )
        assert [delivery.reply["you"] for delivery in deliveries] == ids
    finally:
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        await handler.close()


# --- messages that have their id already ------------------------------------------------------------------------------


async def test_a_kept_message_goes_out_with_its_id_and_its_late_answer_is_no_fault(
    handler: Any, connect: Connect, flow_id: str
) -> None:
    flow = await connect()
    delivery = await handler.send_message(flow_id, {"n": 1}, message_id="k-1")
    assert delivery.message_id == (await flow.frame())["id"] == "k-1"
    # The same id again: the first came, but nobody could be told so.
    await handler.send_message(flow_id, {"n": 1}, message_id="k-1")
    assert (await flow.frame())["id"] == "k-1"
    await flow.say(type="reply", to="k-1", body=None)
    await flow.say(type="reply", to="k-of-an-earlier-run", body=None)
    await flow.say(type="reply", to="x-1", body=None)
    assert (await flow.frame())["to"] == "x-1", "only an id that was never ours is refused"


@pytest.mark.parametrize("acks", [True, False])
async def test_delivery_is_told_before_the_reply(
    handler: Any, connect: Connect, listener: Any, flow_id: str, acks: bool
) -> None:
    flow = await connect()
    await flow.say(type="hello", contract=1, acks=acks)
    assert await handler.introduced(flow_id, 5)
    told = asyncio.Event()
    task = await started(handler.send_message(flow_id, {}, expect_reply=True, on_delivered=told.set))
    frame = await flow.frame()
    if acks:
        assert not told.is_set()
        await flow.say(type="ack", to=frame["id"])
    async with asyncio.timeout(5):
        await told.wait()
    assert not task.done()
    told.clear()
    await flow.say(type="ack", to=frame["id"])
    await flow.say(type="reply", to=frame["id"], body=1)
    assert (await task).reply == 1
    assert not told.is_set(), "told once"


async def test_a_flow_is_introduced_by_its_first_frame_or_not_at_all(
    handler: Any, connect: Connect, flow_id: str
) -> None:
    assert not await handler.introduced(flow_id, 5), "nobody is connected"
    flow = await connect()
    assert not await handler.introduced(flow_id, 0.01)
    waiting = [await started(handler.introduced(flow_id, 5)) for _ in range(2)]
    await flow.say(type="pong")
    assert await asyncio.gather(*waiting) == [True, True]
    assert await handler.introduced(flow_id, 0)
    second = await connect()
    waiting = [await started(handler.introduced(flow_id, 5))]
    await second.close()
    assert await asyncio.gather(*waiting) == [False], "it left without a word"
