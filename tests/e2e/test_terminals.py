"""Terminals through the whole service, on each runtime, with a plain Socket.IO client."""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flow_manager.client import FlowManagerClient
from flow_manager.util.tokens import hash_token
from tests.e2e.conftest import PATIENCE, Client, Platform, running

INTERRUPT = b"\x03"


class Screen:
    """What one client was shown of a terminal, in order."""

    def __init__(self, client: Client, terminal_id: str) -> None:
        self.client = client
        self.id = terminal_id

    def pieces(self) -> list[tuple[int, bytes]]:
        shown = [event for event in self.client.events("terminal_output") if event["terminal_id"] == self.id]
        return [(event["offset"], event["data"]) for event in shown]

    def text(self) -> bytes:
        return b"".join(data for _, data in self.pieces())

    def end(self) -> int:
        offset, data = self.pieces()[-1]
        return offset + len(data)

    async def shows(self, words: bytes) -> None:
        try:
            await self.client.until(lambda: words in self.text())
        except TimeoutError:
            raise AssertionError(f"{words!r} is not in {self.text()[-2000:]!r}") from None

    async def type(self, data: bytes | str) -> None:
        assert await self.client.ok("terminal_input", terminal_id=self.id, data=data) == {}

    async def insists(self, line: bytes, answer: bytes) -> None:
        """Type a line until it is answered: what is typed while an interrupt is on its way is lost, as on any terminal."""
        async with asyncio.timeout(PATIENCE):
            while answer not in self.text():
                await self.type(line)
                await asyncio.sleep(0.3)

    async def closed(self) -> int | None:
        def told() -> list[Any]:
            return [event for event in self.client.events("terminal_closed") if event["terminal_id"] == self.id]

        code: int | None = (await self.client.until(told))[0]["exit_code"]
        return code


async def attached(client: Client, flow: str, **fields: Any) -> Screen:
    opened = await client.ok("attach_container", container_id=flow, **fields)
    return Screen(client, opened["terminal_id"])


async def flow_of(client: Client, platform: Platform, **fields: Any) -> str:
    # Without the tester's own .bashrc.
    home = {"HOME": "/nonexistent"}
    made = await client.ok("create_container", **{**platform.sleeper, "environment": home, "start": True, **fields})
    return str(made["id"])


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_terminal_is_typed_in_resized_interrupted_and_left(
    platform: Platform, connect: Callable[..., Any], transport: str
) -> None:
    async with running(platform.settings()) as service:
        client: Client = await connect(service, transports=[transport])
        await client.ok("subscribe_activity")
        flow = await flow_of(client, platform)
        screen = await attached(client, flow, cols=99, rows=33)
        await screen.type("stty size\r")
        await screen.shows(b"33 99")
        await client.ok("terminal_resize", terminal_id=screen.id, cols=51, rows=21)
        await screen.type(b"stty size\r")
        await screen.shows(b"21 51")
        # A shell takes what is typed before its command has the terminal for its own.
        await screen.type(b"cat\r" if platform.kind == "memory" else b"echo re''ady; cat\r")
        await screen.shows(b"cat\r\n" if platform.kind == "memory" else b"ready\r\n")
        await screen.type(b"over and over\r")
        await client.until(lambda: screen.text().count(b"over and over") == 2)
        await screen.type(INTERRUPT)
        await screen.insists(b"echo he''re\r" if platform.kind != "memory" else b"echo here\r", b"here\r\n")
        await screen.type(b"exit 7\r")
        assert await screen.closed() == 7
        await client.until(lambda: "terminal_closed" in client.activity())
        entries = {entry["type"]: entry for entry in client.events("activity")}
        opened, closed = entries["terminal_opened"], entries["terminal_closed"]
        assert (opened["actor"], closed["actor"], closed["details"]["exit_code"]) == ("local", "local", 7)
        assert "over and over" not in str(client.events("activity"))
        offsets = screen.pieces()
        assert [offset for offset, _ in offsets[1:]] == [offset + len(data) for offset, data in offsets[:-1]]


async def test_a_stalled_viewer_holds_nobody_up_and_memory_stays_bounded_while_yes_runs(
    process_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(process_platform.settings()) as service:
        live: Client = await connect(service)
        flow = await flow_of(live, process_platform)
        screen = await attached(live, flow, command=["yes"])
        await screen.shows(b"y\r\n")
        stalled = await Stalled.joined(service.url, flow, screen.id)
        try:
            resident = memory()
            live.seen.clear()
            began = asyncio.get_running_loop().time()
            taken = 0
            while asyncio.get_running_loop().time() < began + 3:
                await asyncio.sleep(0.05)
                taken += sum(len(data) for _, data in screen.pieces())
                live.seen.clear()
            assert taken > 2 * 1024 * 1024  # more than anything in between could hold: it flows
            assert memory() - resident < 64 * 1024 * 1024
            await screen.type(INTERRUPT)
            assert await screen.closed() == 130
            # The stalled one reads again: it lost what came in between, and its offset says so; it was not cut off.
            offsets = await stalled.offsets()
            assert any(here + size < there for (here, size), (there, _) in itertools.pairwise(offsets))
        finally:
            await stalled.close()


async def test_another_principals_terminal_does_not_exist_in_the_same_words(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    tokens = {name: f"token-of-{name}-" + "x" * 24 for name in ("ann", "bob")}
    auth = {"tokens": [{"name": name, "hash": hash_token(token)} for name, token in tokens.items()]}
    async with running(memory_platform.settings(auth=auth)) as service:
        ann, bob = [await connect(service, token=tokens[name]) for name in ("ann", "bob")]
        flow = await flow_of(ann, memory_platform)
        screen = await attached(ann, flow)
        for terminal_id in (screen.id, "made-up"):
            for event, fields in (
                ("terminal_input", {"data": "exit\r"}),
                ("terminal_resize", {"cols": 1, "rows": 1}),
                ("detach_container", {}),
                ("attach_container", {"container_id": flow}),
            ):
                refusal = await bob.refused(event, terminal_id=terminal_id, **fields)
                assert (refusal["code"], refusal["error_type"]) == ("invalid_request", "validation_error")
                assert refusal["message"] == f"terminal_id: '{terminal_id}' is not an open terminal"
        assert bob.events("terminal_output") == []
        other = await connect(service, token=tokens["ann"])
        again = await attached(other, flow, terminal_id=screen.id)
        await again.type("echo for-both\r")
        await screen.shows(b"for-both\r\n")
        await again.shows(b"for-both\r\n")


async def test_a_terminal_outlives_its_connection_and_is_replayed_from_where_it_was(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        first: Client = await connect(service)
        flow = await flow_of(first, memory_platform)
        screen = await attached(first, flow)
        await screen.type("echo one\r")
        await screen.shows(b"one\r\n$ ")
        after, before = screen.end(), screen.text()
        await first.sio.disconnect()
        second: Client = await connect(service)
        back = await second.ok("attach_container", container_id=flow, terminal_id=screen.id, after=after)
        assert back == {"terminal_id": screen.id, "offset": after}
        again = Screen(second, screen.id)
        await again.type("echo two\r")
        await again.shows(b"two\r\n$ ")
        assert b"one" not in again.text()
        whole = await second.ok("attach_container", container_id=flow, terminal_id=screen.id)
        assert whole["offset"] == 0
        await second.until(lambda: again.text().endswith(before + b"echo two\r\ntwo\r\n$ "))
        beyond = await second.ok("attach_container", container_id=flow, terminal_id=screen.id, after=10**12)
        assert beyond["offset"] == again.end()
        await again.type("exit 4\r")
        assert await again.closed() == 4
        ended = await second.refused("terminal_input", terminal_id=screen.id, data="x")
        assert (ended["code"], ended["details"]["exit_code"]) == ("invalid_request", 4)


@pytest.mark.parametrize(
    ("event", "fields", "code"),
    [
        ("attach_container", {"cols": 0}, "invalid_request"),
        ("attach_container", {"rows": 1001}, "invalid_request"),
        ("attach_container", {"command": []}, "invalid_request"),
        ("attach_container", {"target": "main"}, "invalid_request"),
        ("attach_container", {"container_id": "no-such-flow"}, "container_not_found"),
        ("terminal_resize", {"cols": 0, "rows": 24}, "invalid_request"),
        ("terminal_input", {"data": "x" * 300_000}, "payload_too_large"),
        ("terminal_input", {"data": b"x" * 300_000}, "payload_too_large"),
        ("terminal_input", {"data": 7}, "invalid_request"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_and_the_terminal_goes_on(
    memory_platform: Platform, connect: Callable[..., Any], event: str, fields: dict[str, Any], code: str
) -> None:
    async with running(memory_platform.settings()) as service:
        client: Client = await connect(service)
        flow = await flow_of(client, memory_platform)
        screen = await attached(client, flow)
        given = {"container_id": flow} if event == "attach_container" else {"terminal_id": screen.id}
        assert (await client.refused(event, **{**given, **fields}))["code"] == code
        await screen.type("echo fine\r")
        await screen.shows(b"fine\r\n")


async def test_typing_keeps_a_flow_awake_and_an_open_terminal_alone_does_not(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        client: Client = await connect(service)
        await client.ok("subscribe_activity")
        flow = await flow_of(client, memory_platform, idle={"idle_timeout": 1.5})
        screen = await attached(client, flow)
        for _ in range(6):
            await asyncio.sleep(0.5)
            await screen.type("\r")
        explained = await client.ok("explain_container", container_id=flow)
        assert [lease["kind"] for lease in explained["leases"]] == ["terminal"]
        assert (await client.ok("get_status", container_id=flow))["state"] == "running"
        await screen.closed()  # nobody types any more: it falls asleep, and its terminal ends with it
        again = await attached(client, flow)  # which wakes it
        await again.type("echo awake\r")
        await again.shows(b"awake\r\n")


async def test_a_shutdown_tells_viewers_and_leaves_no_process(
    process_platform: Platform, started: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    service = await started(process_platform.settings())
    client: Client = await connect(service)
    flow = await flow_of(client, process_platform)
    screen = await attached(client, flow, command=["sh", "-c", "trap '' HUP; echo re''ady; sleep 98765"])
    await screen.shows(b"ready\r\n")
    await service.stop()
    await screen.closed()
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x0098765" in _read(path)]
    assert left == []


ANSWERS = [
    "sh",
    "-c",
    'while read -r line; do case "$line" in exit) exit 7;; size) stty size;; *) echo "got $line";; esac; done',
]


@pytest.mark.parametrize(
    "platform", ["process", pytest.param("docker", marks=pytest.mark.docker)], indirect=True, ids=str
)
async def test_a_flows_own_terminal_has_several_viewers_and_goes_on_when_all_have_left(
    platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(platform.settings()) as service:
        first, second = await connect(service), await connect(service)
        (runtime,) = first.events("hello")[0]["runtimes"].values()
        assert runtime["capabilities"]["tty"]
        flow = await flow_of(first, platform, tty=True, command=ANSWERS)
        screen = await attached(first, flow, target="main", cols=99, rows=33)
        await screen.type("size\r")
        await screen.shows(b"33 99\r\n")
        joined = await attached(second, flow, terminal_id=screen.id, cols=51, rows=21)
        beside = await attached(second, flow, target="main", cols=51, rows=21)
        await beside.type("size\r")
        for one in (screen, joined, beside):
            await one.shows(b"21 51\r\n")
        for client, one in ((first, screen), (second, joined), (second, beside)):
            await client.ok("detach_container", terminal_id=one.id)
        again = await attached(second, flow, target="main")
        await again.type("hello\r")
        await again.shows(b"got hello\r\n")
        logged = (await second.ok("get_logs", container_id=flow))["lines"]
        assert ("stdout", "got hello") in [(line["stream"], line["text"]) for line in logged]
        refused = await second.refused("attach_container", container_id=flow, target="main", command=["sh"])
        assert refused["code"] == "invalid_request"
        await again.type("exit\r")
        assert await again.closed() == 7
        assert (await second.ok("get_status", container_id=flow))["exit_code"] == 7
        await second.ok("restart_container", container_id=flow)
        anew = await attached(second, flow, target="main")
        await anew.type("anew\r")
        await anew.shows(b"got anew\r\n")
        await second.ok("pause_container", container_id=flow)
        await second.ok("unpause_container", container_id=flow)
        await second.ok("delete_container", container_id=flow, force=True)
        assert await anew.closed() in (None, 137)


async def test_a_shutdown_ends_a_local_flow_with_its_own_terminal(
    process_platform: Platform, started: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    service = await started(process_platform.settings())
    client: Client = await connect(service)
    flow = await flow_of(client, process_platform, tty=True, command=ANSWERS)
    screen = await attached(client, flow, target="main")
    await screen.type("here\r")
    await screen.shows(b"got here\r\n")
    await service.stop()
    await screen.closed()
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if flow.encode() in _read(path)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def memory() -> int:
    """Bytes of this process that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Stalled:
    """A viewer that does not read its socket until it is asked what it got."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._socket = socket

    @classmethod
    async def joined(cls, url: str, flow: str, terminal_id: str) -> Stalled:
        session = aiohttp.ClientSession()
        socket = await session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0)
        await socket.receive()
        await socket.send_str("40")
        request = {"container_id": flow, "terminal_id": terminal_id}
        await socket.send_str(f'421["attach_container",{json.dumps(request)}]')
        while not (await socket.receive_str()).startswith("431"):
            continue
        socket._reader._protocol.pause_reading()
        return cls(session, socket)

    async def offsets(self) -> list[tuple[int, int]]:
        """Offset and length of each piece, up to the terminal's end."""
        self._socket._reader._protocol.resume_reading()
        found: list[tuple[int, int]] = []
        offset = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self._socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), "it was cut off"
                if message.type is aiohttp.WSMsgType.BINARY:
                    found.append((offset, len(message.data)))
                elif message.data.startswith("451-"):
                    offset = json.loads(message.data[4:])[1]["offset"]
                elif "terminal_closed" in message.data:
                    return found

    async def close(self) -> None:
        await self._socket.close()
        await self._session.close()


@pytest.mark.node
@pytest.mark.docker
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_javascript_client_drives_a_terminal_in_a_real_container(
    docker_platform: Platform, connect: Callable[..., Any], node_modules: Path, transport: str
) -> None:
    async with running(docker_platform.settings()) as service:
        client: Client = await connect(service)
        flow = await flow_of(client, docker_platform)
        process = await asyncio.create_subprocess_exec(
            shutil.which("node") or "node",
            str(node_modules.parent / "terminal.mjs"),
            service.url,
            transport,
            flow,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        assert json.loads(out) == {"code": 7, "gaps": 0}
        await client.ok("delete_container", container_id=flow, force=True)


async def test_a_repeated_request_opens_one_terminal_and_types_once(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        client: Client = await connect(service)
        flow = await flow_of(client, memory_platform)
        opened = [
            await client.ok("attach_container", container_id=flow, request_id="once") for _ in range(3)
        ] + await asyncio.gather(
            *(client.ok("attach_container", container_id=flow, request_id="twice") for _ in range(3))
        )
        assert len({item["terminal_id"] for item in opened}) == 2
        screen = Screen(client, opened[-1]["terminal_id"])
        for _ in range(3):
            await client.ok("terminal_input", terminal_id=screen.id, data="echo typed\r", request_id="same")
        await screen.type("echo over\r")
        await screen.shows(b"\nover\r\n")
        last = screen.text()[screen.text().rindex(b"$ echo typed") :]
        assert last.count(b"echo typed") == 1
        other = await flow_of(client, memory_platform)
        for event, fields in (
            ("attach_container", {"container_id": other, "request_id": "once"}),
            ("attach_container", {"container_id": flow, "command": ["other"], "request_id": "once"}),
            ("terminal_input", {"terminal_id": screen.id, "data": "echo else\r", "request_id": "same"}),
        ):
            assert (await client.refused(event, **fields))["code"] == "conflict"


async def test_a_client_opens_only_so_many_terminals_and_a_runtime_that_fails_leaves_none(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        client: Client = await connect(service)
        flow = await flow_of(client, memory_platform)
        replies = [await client.call("attach_container", container_id=flow) for _ in range(33)]
        assert [reply["error"] for reply in replies] == [False] * 32 + [True]
        assert (replies[-1]["code"], replies[-1]["error_type"]) == ("too_many_streams", "limit_error")
        await client.ok("terminal_input", terminal_id=replies[0]["data"]["terminal_id"], data="exit\r")
        await client.until(lambda: client.events("terminal_closed"))
        await attached(client, flow)


async def test_the_typed_client_reads_on_after_it_had_no_room(
    process_platform: Platform, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.client.terminals.HIGH_WATER", 100_000)
    async with running(process_platform.settings()) as service:
        client: Client = await connect(service)
        flow = await flow_of(client, process_platform)
        async with FlowManagerClient(service.url) as typed:
            terminal = await typed.attach_container(flow, command=["sh", "-c", "seq 1 100000; sleep 0.2; exit 9"])
            await asyncio.sleep(1)  # it looks away meanwhile
            shown = b""
            async with asyncio.timeout(PATIENCE):
                while data := await terminal.read():
                    shown += data
            assert (terminal.exit_code, terminal.skipped) == (9, 0)
            assert shown.split() == [b"%d" % number for number in range(1, 100001)]
