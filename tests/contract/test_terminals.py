"""What every runtime promises of terminals (`runtimes.inside.Inside.attach`), worded once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.inside import Command, Terminal
from tests.contract.harness import RuntimeHarness, run, until

PATIENCE = 20.0
PROC = Path("/proc")
INTERRUPT = b"\x03"
# The tester's own .bashrc is none of a test's business: one that takes a lock leaves it when its shell is killed.
HOMELESS = {"HOME": "/nonexistent"}
DOCKER = pytest.param("docker", marks=pytest.mark.docker)
REAL = pytest.mark.parametrize("parts", [DOCKER, "process", "proxmox"], indirect=True)
WITH_TTY = pytest.mark.parametrize("parts", [DOCKER, "process", "memory", "proxmox"], indirect=True)


class Screen:
    """Reads a terminal, for as long as the test looks."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.seen = bytearray()

    async def shows(self, words: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while words not in self.seen:
                    data = await self.terminal.read()
                    if not data:
                        raise AssertionError(f"it ended without {words!r}: {bytes(self.seen)!r}")
                    self.seen += data
        except TimeoutError:
            raise AssertionError(f"{words!r} is not in {bytes(self.seen)!r}") from None

    async def ends(self) -> int | None:
        async with asyncio.timeout(PATIENCE):
            while data := await self.terminal.read():
                self.seen += data
            return await self.terminal.wait()


@asynccontextmanager
async def opened(
    runtime: Runtime, id: str, command: tuple[str, ...] | None = None, **how: Any
) -> AsyncIterator[Screen]:
    terminal = await runtime.attach(id, Command(command) if command else None, **how)
    try:
        yield Screen(terminal)
    finally:
        await terminal.close()


@pytest.fixture
async def flow(harness: RuntimeHarness, runtime: Runtime) -> str:
    return await run(runtime, harness.spec("sleeps", environment=HOMELESS))


def marked(flow: str) -> int:
    """Processes of this flow's terminals on this machine."""
    wanted = {b"FLOW_ID=%s" % flow.encode()}
    found = 0
    for environment in _all("environ"):
        variables = set(environment.split(b"\0"))
        found += wanted <= variables and any(item.startswith(b"FLOW_EXEC_ID=") for item in variables)
    return found


def sleepers(seconds: int) -> int:
    return sum(line == b"sleep\0%d\0" % seconds for line in _all("cmdline"))


def _all(what: str) -> Iterator[bytes]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                yield (folder / what).read_bytes()
            except OSError:
                continue


async def test_it_says_that_it_can(runtime: Runtime) -> None:
    assert runtime.capabilities.attach


async def test_a_shell_has_the_size_that_was_asked_for_and_the_one_that_is_told(runtime: Runtime, flow: str) -> None:
    async with opened(runtime, flow, cols=99, rows=33) as screen:
        await screen.terminal.write(b"stty size\r")
        await screen.shows(b"33 99\r\n")
        await screen.terminal.resize(51, 21)
        await screen.terminal.write(b"stty size\r")
        await screen.shows(b"21 51\r\n")


async def test_a_shell_passes_its_exit_code_on(runtime: Runtime, flow: str) -> None:
    async with opened(runtime, flow) as screen:
        await screen.terminal.write(b"exit 7\r")
        assert await screen.ends() == 7
        assert await screen.terminal.read() == b""
        await screen.terminal.write(b"too late")
        await screen.terminal.resize(80, 24)


async def test_a_command_that_is_not_there_ends_with_127_and_says_so(runtime: Runtime, flow: str) -> None:
    async with opened(runtime, flow, ("no-such-command",)) as screen:
        assert await screen.ends() == 127
        assert b"not found" in screen.seen


async def test_without_a_reader_the_program_is_held_up_and_an_interrupt_still_ends_it(
    runtime: Runtime,
    flow: str,
) -> None:
    async with opened(runtime, flow, ("yes",)) as screen:
        await screen.shows(b"y\r\ny\r\n")
        await asyncio.sleep(0.2)
        await screen.terminal.write(INTERRUPT)
        assert await screen.ends() == 130


async def test_ten_terminals_are_open_at_once(runtime: Runtime, flow: str) -> None:
    if runtime.kind == "proxmox":
        pytest.skip("the server has one console a container")
    screens = [Screen(await runtime.attach(flow, None)) for _ in range(10)]
    for number, screen in enumerate(screens):
        await screen.terminal.write(b"echo n%d\r" % number)
    for number, screen in enumerate(screens):
        await screen.shows(b"n%d\r\n" % number)
    await asyncio.gather(*(screen.terminal.close() for screen in screens))


async def test_the_flows_end_is_its_terminals_end(runtime: Runtime, flow: str) -> None:
    async with opened(runtime, flow) as screen:
        await screen.terminal.write(b"echo here\r")
        await screen.shows(b"here\r\n")
        await runtime.kill(flow)
        await screen.ends()


async def test_closing_again_and_closing_what_has_ended_does_nothing(runtime: Runtime, flow: str) -> None:
    async with opened(runtime, flow) as screen:
        await screen.terminal.close()
        assert await screen.ends() is not None or runtime.kind == "docker"
        await screen.terminal.close()


@REAL
@pytest.mark.parametrize("how", ["close", "exit", "runtime"])
async def test_nothing_that_ran_in_it_is_left(runtime: Runtime, flow: str, how: str) -> None:
    descriptors, seconds = len(list((PROC / "self/fd").iterdir())), secrets.randbelow(10**8) + 10**6
    terminal = await runtime.attach(flow, None)
    screen = Screen(terminal)
    # Ignoring the hang-up, in the background, in a session of its own, and without the environment.
    await terminal.write(
        b"trap '' HUP; sleep N & (setsid sleep N &); env -i /bin/sh -c 'sleep N; :' & echo re''ady\r".replace(
            b"N", b"%d" % seconds
        )
    )
    await screen.shows(b"ready\r\n")

    async def begun() -> bool:
        return sleepers(seconds) == 3

    await until(begun, "three processes run in the terminal")
    if how == "exit":
        await terminal.write(b"exit\r")
        await screen.ends()
    elif how == "runtime":
        await runtime.close()
    await terminal.close()
    assert (marked(flow), sleepers(seconds)) == (0, 0)
    # The engine's pool may have connections of its own.
    assert len(list((PROC / "self/fd").iterdir())) <= descriptors + (runtime.kind in ("docker", "proxmox")) * 3


async def test_a_caller_who_gives_up_leaves_no_terminal_behind(runtime: Runtime, flow: str) -> None:
    for delay in (0, 0.001, 0.01, 0.05, 0.1):
        opening = asyncio.create_task(runtime.attach(flow, None))
        await asyncio.sleep(delay)
        opening.cancel()
        (outcome,) = await asyncio.gather(opening, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.close()
    async with asyncio.timeout(PATIENCE):
        while marked(flow):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.05)


async def test_a_flow_that_is_not_there_or_does_not_run_has_no_terminal(
    harness: RuntimeHarness,
    runtime: Runtime,
) -> None:
    with pytest.raises(errors.ContainerNotFound):
        await runtime.attach("aaaaaaaaaaaa", None)
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    with pytest.raises(errors.ContainerStopped):
        await runtime.attach(spec.id, None)


async def test_a_flow_made_without_a_terminal_has_none_of_its_own(runtime: Runtime, flow: str) -> None:
    with pytest.raises((errors.InvalidRequest, errors.Unsupported)):
        await runtime.attach(flow, None, main=True)


@WITH_TTY
async def test_the_flows_own_terminal_takes_input_and_goes_on_when_it_is_left(
    harness: RuntimeHarness,
    runtime: Runtime,
) -> None:
    spec = harness.spec("sleeps", tty=True, **({} if runtime.kind == "memory" else {"command": ("cat",)}))
    await runtime.create(spec)
    await runtime.start(spec.id)
    for words in (b"one\x10\x11", b"two"):  # Ctrl-P Ctrl-Q are input, and detach nothing
        async with opened(runtime, spec.id, main=True) as screen:
            await screen.terminal.write(words + b"\r")
            await screen.shows(words[:3])
    assert (await runtime.inspect(spec.id)).state == "running"
    async with opened(runtime, spec.id, main=True) as screen:
        await runtime.kill(spec.id)
        assert await screen.ends() == (137 if runtime.capabilities.exit_codes else None)
