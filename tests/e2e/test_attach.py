"""`flow-manager attach` under a pseudo-terminal, against real flows."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow_manager.app import Service
from tests.e2e.conftest import PATIENCE, REPOSITORY, Client, Platform, running

DETACH = b"\x10\x11"
# The tester's own .bashrc is none of a test's business: one that takes a lock leaves it when its shell is killed.
HOMELESS = {"HOME": "/nonexistent"}


class Attached:
    """The program at a terminal of its own; what that shows."""

    def __init__(self, service: Service, *arguments: str, cols: int = 91, rows: int = 31) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(cols, rows, tell=False)
        self.before = termios.tcgetattr(self.slave)
        environment = {**os.environ, "FLOW_MANAGER_URL": service.url}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flow_manager", "attach", *arguments],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment, cwd=REPOSITORY,
        )  # fmt: skip
        self.shown = bytearray()
        self._changed = asyncio.Event()
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        try:
            self.shown += os.read(self.master, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self.master)
        self._changed.set()

    def resize(self, cols: int, rows: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        if tell:  # the kernel tells the foreground group of a controlling terminal, which this is not
            self.process.send_signal(signal.SIGWINCH)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    async def shows(self, words: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while words not in self.shown:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{words!r} is not in {bytes(self.shown)!r}") from None

    async def insists(self, line: bytes, answer: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while answer not in self.shown:
                self.type(line)
                await asyncio.sleep(0.3)

    async def ends(self) -> int:
        """Its exit status; the terminal is as it was before."""
        code = await asyncio.to_thread(self.process.wait, PATIENCE)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
async def attach() -> AsyncIterator[Callable[..., Attached]]:
    made: list[Attached] = []

    def start(service: Service, *arguments: str, **how: Any) -> Attached:
        made.append(Attached(service, *arguments, **how))
        return made[-1]

    yield start
    for attached in made:
        attached.close()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def real(request: pytest.FixtureRequest, short_folder: Any) -> Platform:
    from tests.e2e.conftest import make_platform

    return make_platform(request, request.param, short_folder)


@asynccontextmanager
async def flow(platform: Platform, connect: Callable[..., Any]) -> AsyncIterator[tuple[Service, Client, str]]:
    async with running(platform.settings()) as service:
        client: Client = await connect(service)
        made = await client.ok("create_container", **platform.sleeper, name="box", start=True, environment=HOMELESS)
        yield service, client, made["id"]
        await client.ok("delete_container", container_id=made["id"], force=True)


async def test_it_is_a_terminal_with_size_interrupt_and_exit_status(
    real: Platform, connect: Callable[..., Any], attach: Callable[..., Attached]
) -> None:
    async with flow(real, connect) as (service, _, _id):
        shell = attach(service, "box")
        await shell.insists(b"stty size\r", b"31 91\r\n")
        shell.resize(61, 21)
        await shell.insists(b"stty size\r", b"21 61\r\n")
        shell.type(b"echo re''ady; sleep 600\r")
        await shell.shows(b"ready\r\n")
        shell.type(b"\x03")
        await shell.insists(b"echo ag''ain\r", b"again\r\n")
        shell.type(b"exit 7\r")
        assert await shell.ends() == 7


async def test_a_command_gets_its_arguments_and_its_exit_status_is_passed_on(
    process_platform: Platform, connect: Callable[..., Any], attach: Callable[..., Attached]
) -> None:
    async with flow(process_platform, connect) as (service, _, _id):
        command = attach(service, "box", "--", "sh", "-c", 'echo "[$1]"; exit 3', "sh", "--json x")
        assert await command.ends() == 3
        assert b"[--json x]" in command.shown
        missing = attach(service, "box", "no-such-command")
        assert await missing.ends() == 127
        refused = attach(service, "no-such-flow")
        assert await refused.ends() == 1


async def test_it_is_left_with_the_detach_keys_and_joined_again_where_it_was(
    real: Platform, connect: Callable[..., Any], attach: Callable[..., Attached]
) -> None:
    async with flow(real, connect) as (service, _, _id):
        first = attach(service, "box")
        await first.insists(b"echo on''ce; MINE=kept\r", b"once\r\n")
        first.type(DETACH)
        assert await first.ends() == 0
        await first.shows(b"--terminal-id=")
        line = bytes(first.shown).split(b"--terminal-id=")[1].split()[0].decode()
        second = attach(service, f"--terminal-id={line}", "box")
        await second.shows(b"once\r\n")
        await second.insists(b"echo is-$MINE\r", b"is-kept")
        second.type(b"exit\r")
        assert await second.ends() == 0


async def test_a_signal_puts_the_terminal_right_before_it_ends_the_program(
    process_platform: Platform, connect: Callable[..., Any], attach: Callable[..., Attached]
) -> None:
    async with flow(process_platform, connect) as (service, _, _id):
        shell = attach(service, "box")
        await shell.insists(b"echo re''ady\r", b"ready\r\n")
        shell.process.send_signal(signal.SIGTERM)
        assert await shell.ends() == 143


async def test_a_service_that_ends_ends_the_terminal_and_puts_it_right(
    process_platform: Platform,
    started: Callable[..., Any],
    connect: Callable[..., Any],
    attach: Callable[..., Attached],
) -> None:
    service = await started(process_platform.settings())
    client: Client = await connect(service)
    await client.ok("create_container", **process_platform.sleeper, name="box", start=True, environment=HOMELESS)
    shell = attach(service, "box")
    await shell.insists(b"echo re''ady\r", b"ready\r\n")
    await service.stop()
    assert await shell.ends() in (1, 3, 129)


async def test_a_lost_connection_is_made_again_and_nothing_is_shown_twice_or_missed(
    process_platform: Platform, connect: Callable[..., Any], attach: Callable[..., Attached]
) -> None:
    async with flow(process_platform, connect) as (service, client, _id):
        shell = attach(service, "box")
        await shell.insists(b"PS1=; echo re''ady\r", b"ready\r\n")
        shell.type(b"i=0; while [ $i -lt 60 ]; do echo line-$i-; sleep 0.05; i=$((i+1)); done; echo do''ne\r")
        await shell.shows(b"line-5-")
        cut(service, client)
        await shell.shows(b"done\r\n")
        lines = [word for word in bytes(shell.shown).split() if word.startswith(b"line-") and word.endswith(b"-")]
        numbers = [int(word.split(b"-")[1]) for word in lines if word.split(b"-")[1].isdigit()]
        assert numbers == list(range(60))
        assert b"connected again" in shell.shown
        shell.type(b"exit 5\r")
        assert await shell.ends() == 5


async def test_what_is_piped_in_is_typed_and_its_end_ends_the_shell(
    process_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with flow(process_platform, connect) as (service, _, _id):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flow_manager", "attach", "box", "--", "wc", "-c",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "FLOW_MANAGER_URL": service.url}, cwd=REPOSITORY,
        )  # fmt: skip
        text = b"".join(b"line %d\n" % number for number in range(2000)) + b"without its end"
        out, err = await asyncio.wait_for(process.communicate(text), PATIENCE)
        assert process.returncode == 0, err
        # All of it came, after what the terminal echoed.
        assert out.split()[-1].endswith(b"%d" % len(text))


def cut(service: Service, but: Client) -> None:
    """Abort the connection of everybody but this client."""
    gateway = next(
        item.__self__
        for item in service._undo
        if getattr(item, "__name__", "") == "close" and hasattr(item.__self__, "_clients")
    )
    for client in gateway._clients.all():
        if client.sid != but.sio.get_sid():
            client.socket.cut("transport error")
