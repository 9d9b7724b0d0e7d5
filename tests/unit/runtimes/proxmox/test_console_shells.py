"""What is typed into a console, in the shells that images have: the line that starts it, the scripts, what they say.

Each shell is tried on a terminal of its own, and, where it is installed, through the dtach that a server puts in between.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import Conflict
from flow_manager.runtimes.proxmox import console_script as script
from flow_manager.runtimes.proxmox.console_session import Over, Session, finish, leave
from tests.pve.inside import _end_all
from tests.pve.terminal import Terminal

# (the shell that is found there, the one that reads the scripts)
SHELLS = {
    "dash": (["/bin/sh"], "/bin/sh"),
    "bash": (["bash", "--norc"], "bash --posix"),
    "busybox": (["busybox", "ash"], "busybox sh"),
}
WAYS = [name for name, (found, _) in SHELLS.items() if shutil.which(found[0])]
WAYS += [f"{name} in dtach" for name in WAYS if shutil.which("dtach")]
PATIENCE = 30.0


class PtyLine:
    """What a `console.Line` is, without a server."""

    def __init__(self, terminal: Terminal, reader: str) -> None:
        self.terminal, self.reader = terminal, reader
        self.printed: asyncio.Queue[bytes] = asyncio.Queue()
        self.seen = b""
        terminal.watch(self._show)
        self.typed = b""

    def _show(self, data: bytes) -> None:
        self.seen += data
        self.printed.put_nowait(data)

    async def shows(self, words: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in self.seen:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)

    async def type(self, data: bytes) -> None:
        self.typed += data
        self.terminal.write(data.replace(b"/bin/sh", self.reader.encode()))

    async def resize(self, cols: int, rows: int) -> None:
        if not self.terminal.ended.is_set():
            self.terminal.resize(cols, rows)

    async def receive(self) -> bytes:
        getting = asyncio.ensure_future(self.printed.get())
        ending = asyncio.ensure_future(self.terminal.ended.wait())
        try:
            await asyncio.wait([getting, ending], return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            return self.printed.get_nowait() if not self.printed.empty() else b""
        finally:
            getting.cancel()
            ending.cancel()

    async def close(self) -> None:
        await self.terminal.close()


class Console:
    """A place where consoles can be opened, and what is left of them ended."""

    def __init__(self, way: str, folder: Path) -> None:
        self.name, _, dtach = way.partition(" in ")
        self.folder, self.dtach = folder, bool(dtach)
        self.mark = secrets.token_hex(8)
        self.found, self.reader = SHELLS[self.name]

    @asynccontextmanager
    async def line(self) -> AsyncIterator[PtyLine]:
        command = self.found
        if self.dtach:
            command = ["dtach", "-A", f"{self.folder}/d", "-r", "winch", "-z", *command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "xterm", "CONSOLE": self.mark, "PS1": "# "}
        if self.name == "busybox":
            applets = self.folder / "bin"
            if not applets.exists():
                applets.mkdir()
                for name in (
                    "stty",
                    "setsid",
                    "mkdir",
                    "mkfifo",
                    "cat",
                    "rm",
                    "sleep",
                    "grep",
                    "base64",
                    "od",
                    "env",
                    "head",
                ):
                    (applets / name).symlink_to(str(shutil.which("busybox")))
                for name in ("busybox", "dtach", "sh"):
                    (applets / name).symlink_to(str(shutil.which(name) or shutil.which("busybox")))
            # The emulator's terminal needs its own tools.
            command = ["env", f"PATH={applets}", *command]
        terminal = Terminal()
        await terminal.open([str(shutil.which(command[0])), *command[1:]], environment, self.folder)
        line = PtyLine(terminal, self.reader)
        try:
            yield line
        finally:
            await line.close()

    @asynccontextmanager
    async def session(self, **how: Any) -> AsyncIterator[Session]:
        async with self.line() as line:
            session = Session(line)  # type: ignore[arg-type]
            await session.enter(80, 24, **how)
            yield session


@pytest.fixture(params=WAYS)
async def console(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Console]:
    made = Console(request.param, tmp_path)
    yield made
    await asyncio.to_thread(_end_all, f"CONSOLE={made.mark}\0".encode())


async def execute(session: Session, *argv: str, limit: int = 1 << 20, **more: Any) -> tuple[int, bytes, bytes]:
    environment, folder = more.get("environment", {}), more.get("folder")
    await session.give(script.run(session.nonce, secrets.token_hex(8), argv, environment, folder, limit))
    began = await session.said("run", within=PATIENCE)
    assert began is not None, session.screen()
    return await outcome(session)


async def outcome(session: Session) -> tuple[int, bytes, bytes]:
    out = await session.said("out", within=PATIENCE)
    assert out is not None, session.screen()
    way = out[0].rpartition(":")[2]
    stdout = await session.said("err", within=PATIENCE, keep=1 << 24)
    stderr = await session.said("done", within=PATIENCE, keep=1 << 24)
    ended = await finish(session, await session.said("end", within=PATIENCE))
    assert stdout is not None and stderr is not None and ended is not None
    return ended.code, script.decoded(way, stdout[1]), script.decoded(way, stderr[1])


async def test_both_outputs_and_the_exit_code_come_as_they_are(console: Console) -> None:
    argv = (
        "sh",
        "-c",
        r"printf '\377\000\r\n%s' \"$1\"; echo \"err ä\" >&2; exit 7".replace('\\"', '"'),
        "x",
        "a'b\tc\n",
    )
    async with console.session() as session:
        assert await execute(session, *argv) == (7, b"\xff\0\r\na'b\tc\n", "err ä\n".encode())


async def test_any_bytes_of_an_argument_and_a_variable_arrive(console: Console) -> None:
    odd = "".join(map(chr, range(1, 128))) + "äöü%s%%\\n\\\\$(exit 3)`x`"
    async with console.session() as session:
        code, out, _ = await execute(session, "sh", "-c", 'printf %s "$1$ODD"', "x", odd, environment={"ODD": odd})
        assert (code, out.decode()) == (0, odd + odd)


async def test_a_long_argument_takes_many_lines(console: Console) -> None:
    async with console.session() as session:
        assert await execute(session, "sh", "-c", 'echo "${#1}"', "x", "y" * 50_000) == (0, b"50000\n", b"")


async def test_a_megabyte_comes_whole(console: Console) -> None:
    async with console.session() as session:
        code, out, _ = await execute(session, "head", "-c", "1048576", "/dev/urandom")
        assert (code, len(out)) == (0, 1 << 20)


async def test_a_shell_that_was_made_for_us_ends_with_us(console: Console) -> None:
    async with console.session() as session:
        assert (await execute(session, "true"))[0] == 0
        async with asyncio.timeout(PATIENCE):
            await session.line.terminal.ended.wait()  # type: ignore[attr-defined]


async def test_what_writes_without_end_is_cut_and_ended_by_an_interrupt(console: Console) -> None:
    async with console.session() as session:
        endless = ("sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done")
        await session.give(script.run(session.nonce, secrets.token_hex(8), endless, {}, None, 5000))
        assert await session.said("run", within=PATIENCE) is not None
        await asyncio.sleep(0.5)
        await session.line.type(script.INTERRUPT)
        _, out, _ = await outcome(session)
        assert 5000 < len(out) < 8000


async def test_a_half_typed_line_is_cleared(console: Console) -> None:
    async with console.session() as session:
        await leave(session)
    async with console.line() as line:
        await asyncio.sleep(0.3)
        await line.type(b"echo 'half of a li")
        session = Session(line)  # type: ignore[arg-type]
        await session.enter(80, 24)
        assert (await execute(session, "echo", "whole"))[1] == b"whole\n"


async def test_a_program_that_was_left_there_is_interrupted(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.ANSWER_SECONDS", 2.0)
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.CLEAR_SECONDS", 0.2)
    async with console.line() as line:
        await asyncio.sleep(0.3)
        await line.type(b"cat\n")
        await asyncio.sleep(0.3)
        session = Session(line)  # type: ignore[arg-type]
        await session.enter(80, 24)
        assert (await execute(session, "echo", "here"))[1] == b"here\n"


async def test_what_no_interrupt_ends_is_a_refusal_that_shows_the_screen(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.TRIES", 2)
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.CLEAR_SECONDS", 0.1)
    async with console.line() as line:
        await asyncio.sleep(0.3)
        await line.type(b"sh -c \"trap '' INT; stty -echo; echo editing; while :; do sleep 1; done\"\n")
        # Its own words, not those that were typed: before them an interrupt would still end it.
        await line.shows(b"editing\r\n")
        with pytest.raises(Conflict) as refused:
            await Session(line).enter(80, 24)  # type: ignore[arg-type]
        assert refused.value.details["operation"] == "console" and "editing" in refused.value.message


async def test_a_shell_that_is_not_there_is_over(tmp_path: Path) -> None:
    terminal = Terminal()
    await terminal.open(["/bin/echo", "lxc-attach: no shell"], {}, tmp_path)
    with pytest.raises(Over) as over:
        await Session(PtyLine(terminal, "/bin/sh")).enter(80, 24)  # type: ignore[arg-type]
    assert "no shell" in str(over.value)


async def test_nothing_is_typed_before_there_is_a_prompt(tmp_path: Path) -> None:
    """dtach clears the screen at once; lxc-attach takes its time, and then throws away what was typed."""
    starting = "stty -icanon min 0 time 0; printf '\\033[H\\033[J'; sleep 0.8; cat >/dev/null; stty sane; PS1='root# ' exec /bin/sh"
    terminal = Terminal()
    await terminal.open(["/bin/sh", "-c", starting], {"PATH": "/usr/bin:/bin"}, tmp_path)
    line = PtyLine(terminal, "/bin/sh")
    session = Session(line)  # type: ignore[arg-type]
    await session.enter(80, 24)
    assert line.typed.count(b"/bin/sh -c") == 1 and script.INTERRUPT not in line.typed
    assert await execute(session, "echo", "in") == (0, b"in\n", b"")
    await line.close()


async def begin(session: Session, *argv: str) -> str:
    mark = secrets.token_hex(8)
    await session.give(script.terminal(session.nonce, mark, argv, {"TERM": "xterm"}, None))
    assert await session.said("run", within=PATIENCE) is not None, session.screen()
    return mark


async def test_a_terminals_program_has_the_terminal_and_its_code_comes_at_its_end(console: Console) -> None:
    async with console.session() as session:
        # dtach tells the size by a signal, which keys may overtake.
        told = "until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; read -r a; stty size; exit $a"
        await begin(session, "sh", "-c", told)
        await session.line.resize(99, 33)
        await session.line.type(b"5\n")
        last = await session.said("end", within=PATIENCE)
        assert last is not None and b"33 99" in last[1]
        ended = await finish(session, last)
        assert ended is not None and (ended.how, ended.code) == ("E", 5)


async def test_the_size_ends_a_program_that_minds_neither_keys_nor_signals_with_all_that_it_started(
    console: Console,
) -> None:
    async with console.session() as session:
        seconds = str(10**6 + secrets.randbelow(10**8))
        stubborn = f"trap '' HUP INT TERM; stty raw -echo; setsid sleep {seconds} & sleep {seconds} & printf '<{session.nonce}:up>'; while :; do sleep 1; done"
        mark = await begin(session, "sh", "-c", stubborn)
        assert await session.said("up", within=PATIENCE) is not None
        await session.line.type(script.INTERRUPT)
        await session.line.resize(script.END_COLS, script.END_ROWS)
        ended = await finish(session, await session.said("end", within=PATIENCE))
        assert ended is not None and ended.how == "E", session.screen()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                assert mark.encode() not in path.read_bytes()
            except OSError:
                continue


async def test_an_earlier_terminal_of_ours_is_ended_by_whoever_comes_next(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manager was killed: the session outlives the connection."""
    if not console.dtach:
        return  # only dtach keeps a session
    monkeypatch.setattr("flow_manager.runtimes.proxmox.console_session.ANSWER_SECONDS", 3.0)
    async with console.session() as session:
        await begin(session, "sh", "-c", "trap '' INT; stty raw -echo; while :; do sleep 1; done")
    with pytest.raises(Over):  # it was a session of ours alone, and ends with that terminal
        async with console.session(ours=True):
            pass
    async with console.session() as session:
        assert (await execute(session, "echo", "free"))[1] == b"free\n"


async def test_an_interrupt_ends_the_program_alone(console: Console) -> None:
    async with console.session() as session:
        await begin(session, "sh", "-c", f"printf '<{session.nonce}:up>'; exec sleep 1000")
        assert await session.said("up", within=PATIENCE) is not None
        await asyncio.sleep(0.1)
        await session.line.type(script.INTERRUPT)
        ended = await finish(session, await session.said("end", within=PATIENCE))
        assert ended is not None and (ended.how, ended.code) == ("E", 130), session.screen()
