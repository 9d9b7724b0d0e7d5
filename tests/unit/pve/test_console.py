"""termproxy: the handshake, the frames, the one shell that all share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.pve.console import BadFrame, Frames
from tests.unit.pve.conftest import Api, served, until

C = "/nodes/pve1/lxc"


def typed(text: str) -> bytes:
    data = text.encode()
    return b"0:%d:%s" % (len(data), data)


class Screen:
    """A console that is looked at."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.websocket = websocket
        self.seen = b""

    async def type(self, text: str) -> None:
        await self.websocket.send_bytes(typed(text))

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(20):
            while text.encode() not in self.seen:
                message = await self.websocket.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, (message, self.seen)
                self.seen += message.data

    async def ends(self) -> None:
        async with asyncio.timeout(20):
            while (message := await self.websocket.receive()).type is aiohttp.WSMsgType.BINARY:
                self.seen += message.data
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)


async def ask(api: Api, vmid: int) -> dict[str, str]:
    return dict((await api.post(f"{C}/{vmid}/termproxy")).data)


@asynccontextmanager
async def connected(api: Api, vmid: int, told: dict[str, str]) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"{api.pve.url}/api2/json{C}/{vmid}/vncwebsocket"
    params = {"port": told["port"], "vncticket": told["ticket"]}
    async with api.session.ws_connect(url, params=params, headers=api.headers, protocols=("binary",)) as websocket:
        yield websocket


@asynccontextmanager
async def looking(api: Api, vmid: int) -> AsyncIterator[Screen]:
    told = await ask(api, vmid)
    async with connected(api, vmid, told) as websocket:
        await websocket.send_str(f"{told['user']}:{told['ticket']}\n")
        assert (await websocket.receive()).data == b"OK"
        yield Screen(websocket)


async def test_termproxy_gives_a_port_as_a_string_and_the_user_with_its_token(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    told = await ask(api, vmid)
    assert (told["user"], told["port"]) == ("flow@pve!flow", "5900")
    assert told["upid"].split(":")[5] == "vncproxy"
    assert (await ask(api, vmid))["port"] == "5901"


async def test_a_command_runs_in_a_real_shell_and_tells_its_exit_code(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        assert screen.websocket.protocol == "binary"
        await screen.websocket.send_str("1:132:43:")
        await screen.type("stty -echo\n")
        await screen.type("echo BE''GIN; stty size; (exit 3); echo END:$?\n")
        await screen.shows("END:3")
        assert b"BEGIN\r\n43 132\r\nEND:3" in screen.seen


async def test_a_second_client_joins_the_same_shell_and_sees_what_was_on_its_screen(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as first:
        await first.type("stty -echo; HIDDEN=tr''easure; echo fi''rst\n")
        await first.shows("first")
        async with looking(api, vmid) as second:
            await second.shows("first")
            await second.type("echo found $HIDDEN\n")
            await second.shows("found treasure")
            await first.shows("found treasure")


async def test_the_shell_outlives_the_websocket(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        await screen.type("KEPT=li''ne; echo se''t\n")
        await screen.shows("set")
    async with looking(api, vmid) as screen:
        await screen.type("echo still $KEPT\n")
        await screen.shows("still line")


async def test_after_exit_the_next_one_gets_a_new_shell(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        await screen.type("LOST=x; exit\n")
        await screen.ends()
    async with looking(api, vmid) as screen:
        await screen.type("echo new:$LOST:\n")
        await screen.shows("new::")


async def test_a_stop_of_the_container_ends_its_console(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        await screen.type("echo he''re\n")
        await screen.shows("here")
        await api.ends("POST", f"{C}/{vmid}/status/stop")
        await screen.ends()


async def test_a_stopped_container_has_no_shell(api: Api) -> None:
    vmid = api.pve.add_container()
    async with looking(api, vmid) as screen:
        await screen.ends()
        assert b"lxc-attach" in screen.seen


async def test_with_a_tty_there_is_a_login_and_nobody_gets_in(api: Api) -> None:
    vmid = api.pve.add_container(running=True, cmode="tty", name="web")
    async with looking(api, vmid) as screen:
        await screen.shows("web login: ")


async def test_with_console_one_sees_what_the_program_prints_from_now_on(api: Api) -> None:
    entrypoint = "sh -c 'echo first; while :; do echo tick; sleep 0.05; done'"
    vmid = api.pve.add_container(running=True, cmode="console", entrypoint=entrypoint)
    await until(lambda: "first" in api.pve.containers[vmid].written, "it prints")
    async with looking(api, vmid) as screen:
        await screen.shows("tick")
        assert b"first" not in screen.seen


async def test_a_shell_like_busybox_asks_where_the_cursor_is_and_takes_the_answer() -> None:
    async with served(asks_cursor=True) as api:
        vmid = api.pve.add_container(running=True)
        async with looking(api, vmid) as screen:
            await screen.shows("\x1b[6n")
            await screen.type("\x1b[1;3R")
            await screen.type("echo an''swered\n")
            await screen.shows("\r\nanswered")


# --- who may ----------------------------------------------------------------------------------------------------------


async def refused(api: Api, vmid: int, told: dict[str, str]) -> aiohttp.WSServerHandshakeError:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with connected(api, vmid, told):
            pass
    return caught.value


async def test_a_ticket_is_good_for_one_container_alone(api: Api) -> None:
    one, other = api.pve.add_container(running=True), api.pve.add_container(running=True)
    error = await refused(api, other, await ask(api, one))
    assert error.status == 401


async def test_a_wrong_handshake_ends_the_connection_and_the_task_says_why(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    told = await ask(api, vmid)
    async with connected(api, vmid, told) as websocket:
        await websocket.send_str(f"root@pam:{told['ticket']}\n")
        assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE
    assert "failed to authenticate" in (await api.task(told["upid"]))["exitstatus"]


async def test_before_9_1_a_token_gets_no_console_and_a_ticket_does() -> None:
    async with served(version="8.4.1") as api:
        vmid = api.pve.add_container(running=True)
        told = await ask(api, vmid)
        async with connected(api, vmid, told) as websocket:
            await websocket.send_str(f"{told['user']}:{told['ticket']}\n")
            assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE
        api.pve.user("person@pve", "secret-2")
        api.pve.grant("person@pve", {"/vms": ("VM.Console",)})
        login = (await api.post_without_token("/access/ticket", username="person@pve", password="secret-2")).data
        cookie = {"Cookie": f"PVEAuthCookie={login['ticket']}", "CSRFPreventionToken": login["CSRFPreventionToken"]}
        async with looking(Api(api.pve, api.session, cookie), vmid) as screen:
            await screen.type("echo in''side\n")
            await screen.shows("inside")


async def test_who_does_not_connect_in_time_finds_the_port_closed() -> None:
    async with served(console_wait=0.01) as api:
        vmid = api.pve.add_container(running=True)
        told = await ask(api, vmid)
        assert (await api.task(told["upid"]))["exitstatus"] == "connection timed out"
        assert (await refused(api, vmid, told)).status == 500


async def test_there_are_a_hundred_consoles_a_node(api: Api) -> None:
    api.pve.cluster.timing.console_wait = 600
    vmid = api.pve.add_container(running=True)
    ports = [(await ask(api, vmid))["port"] for _ in range(100)]
    assert (ports[0], ports[-1]) == ("5900", "5999")
    reply = await api.post(f"{C}/{vmid}/termproxy")
    assert (reply.status, reply.reason) == (500, "unable to find free port (5900-5999)")


async def test_the_task_of_a_console_ends_with_it(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        await screen.type("echo he''re\n")
        await screen.shows("here")
    await until(lambda: all(not task.running for task in api.pve.cluster.tasks.all.values()), "the task ends")
    assert [task.exitstatus for task in api.pve.cluster.tasks.all.values()] == ["OK"]


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_come_in_pieces_and_several_at_once() -> None:
    stream = b"0:5:a:b\nc" + b"1:80:24:" + b"2" + b"0:0:" + b"0:3:xyz"
    wanted = [("data", b"a:b\nc"), ("size", (80, 24)), ("ping", b""), ("data", b""), ("data", b"xyz")]
    assert Frames().feed(stream) == wanted
    frames = Frames()
    assert [frame for byte in stream for frame in frames.feed(bytes([byte]))] == wanted


@pytest.mark.parametrize("data", [b"3", b"hello", b"0:x:", b"0:-1:a", b"1:80:", b"1:a:b:"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    if data == b"1:80:":
        assert Frames().feed(data) == []  # not yet
    else:
        with pytest.raises(BadFrame):
            Frames().feed(data)


async def test_a_client_that_sends_no_frames_is_cut_off(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    async with looking(api, vmid) as screen:
        await screen.websocket.send_str("ls\n")
        await screen.ends()
