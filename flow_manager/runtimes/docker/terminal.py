"""Terminals in containers: an exec with a PTY, or the container's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from flow_manager.errors import ContainerStopped, FlowManagerError
from flow_manager.runtimes.docker import marked
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import READ_SECONDS, Handle
from flow_manager.runtimes.docker.errors import Subject, translated
from flow_manager.runtimes.docker.hijack import Hijacked
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.runtimes.inside import BEST_SHELL, MARK, TERMINAL_TYPE, Command, no_terminal_of_its_own

log = logging.getLogger(__name__)

T = TypeVar("T")

# An exec's start answers when the program runs: some 0.1 s, more while the machine is busy.
START_SECONDS = 30.0
# The engine takes a resize only once the program runs, a moment after the start was answered.
RESIZE_TRIES = 20
RESIZE_PAUSE = 0.05
# How long the exit code may come after the end of the output.
CODE_TRIES = 50
CODE_PAUSE = 0.05
# The inside shell's own time for ending what is left, and the engine's.
END_SECONDS = 9.0
# The engine itself looks for "detach" keys in what is typed, by default Ctrl-P Ctrl-Q: it would hold back each Ctrl-P.
# An attach takes single bytes as keys: these are never part of UTF-8. An exec takes them as JSON text, so ASCII alone:
# six times Ctrl-^, of which the first is held back until the next key.
NO_KEYS = "%FF,%FE,%FF,%FE"
RARE_KEYS = ",".join(["ctrl-^"] * 6)
# A shutdown waits for this, in seconds.
CLOSE_SECONDS = 4.0
NOT_FOUND = 127
NOT_RUNNABLE = 126
MISSING = (b"executable file not found", b"no such file or directory")


class Terminals:
    """Opens them, and at the end of the runtime ends what is still open."""

    def __init__(self, client: EngineClient, new_mark: Callable[[], str]) -> None:
        self._client = client
        self._new_mark = new_mark
        self._open: set[ExecTerminal] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends at once where the engine is away: then nothing can be ended."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._tasks:  # one that is being opened, or given back
                    await asyncio.wait(set(self._tasks))
                await asyncio.gather(*(terminal.close() for terminal in list(self._open)))
        except TimeoutError:
            log.warning("%d terminals were left open: the engine does not answer in time", len(self._open))

    async def shell(self, handle: Handle, command: Command | None, cols: int, rows: int) -> DockerTerminal:
        """:raises ContainerNotFound, ContainerStopped, RuntimeUnavailable, ExecFailed:"""
        mark = self._new_mark()
        given = command or Command(BEST_SHELL)
        body: dict[str, Any] = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": True,
            "DetachKeys": RARE_KEYS,
            # The mark comes last: nothing that was asked for can take its place.
            "Env": [f"TERM={TERMINAL_TYPE}", *(f"{k}={v}" for k, v in given.environment.items()), f"{MARK}={mark}"],
            "Cmd": list(given.argv),
        }
        if given.working_dir is not None:
            body["WorkingDir"] = given.working_dir
        # Whoever gives up meanwhile must not leave a shell behind of which nobody knows.
        return await self._carried_through(self._shell(handle, body, mark, cols, rows))

    async def _shell(self, handle: Handle, body: dict[str, Any], mark: str, cols: int, rows: int) -> DockerTerminal:
        with translated(Subject(handle.flow_id, operation="exec")):
            made = await self._client.call(
                "POST", f"containers/{handle.runtime_id}/exec", body=body, timeout=READ_SECONDS
            )
            exec_id = text(dig(made.data, "Id"))
            stream = await self._client.hijack(
                f"exec/{exec_id}/start",
                # ConsoleSize: since API 1.42; older engines ignore it.
                body={"Detach": False, "Tty": True, "ConsoleSize": [rows, cols]},
                timeout=START_SECONDS,
            )
        terminal = ExecTerminal(self._client, handle, stream, exec_id, mark, self._open.discard)
        self._open.add(terminal)
        await terminal.first_size(cols, rows)
        return terminal

    async def main(self, handle: Handle, cols: int, rows: int) -> DockerTerminal:
        """:raises InvalidRequest: it was not made with a terminal. :raises ContainerNotFound, ContainerStopped:"""
        if not handle.tty:
            raise no_terminal_of_its_own()
        with translated(Subject(handle.flow_id, operation="attach")):
            state = await self._client.call("GET", f"containers/{handle.runtime_id}/json", timeout=READ_SECONDS)
            if dig(state.data, "State", "Running") is not True:
                # An attach would wait for its next start.
                raise ContainerStopped("the flow does not run", container_id=handle.flow_id)
            stream = await self._client.hijack(
                f"containers/{handle.runtime_id}/attach?stream=1&stdin=1&stdout=1&stderr=1&detachKeys={NO_KEYS}",
                timeout=START_SECONDS,
            )
        terminal = MainTerminal(self._client, handle, stream)
        await terminal.first_size(cols, rows)
        return terminal

    async def _carried_through(self, opening: Coroutine[Any, Any, DockerTerminal]) -> DockerTerminal:
        """The opened terminal; a caller who gives up meanwhile leaves nothing behind."""
        task = self._spawn(opening, "terminal-open")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._spawn(_give_back(task), "terminal-undo")
            raise

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _give_back(opening: asyncio.Task[DockerTerminal]) -> None:
    try:
        await (await opening).close()
    except FlowManagerError as error:
        log.info("a terminal that nobody waits for was not opened: %s", error.message)


class DockerTerminal:
    """What both kinds share: the bytes, and the size."""

    def __init__(self, client: EngineClient, handle: Handle, stream: Hijacked, where: str) -> None:
        self._client = client
        self._handle = handle
        self._stream = stream
        self._where = where

    async def read(self) -> bytes:
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def resize(self, cols: int, rows: int) -> None:
        try:
            await self._resize(cols, rows)
        except FlowManagerError as error:
            log.debug("a terminal was not resized: %s", error.message)  # it has ended, or is about to

    async def first_size(self, cols: int, rows: int) -> None:
        """As `resize`, for one that has just begun."""
        for _ in range(RESIZE_TRIES):
            try:
                await self._resize(cols, rows)
                return
            except FlowManagerError:
                if self._stream.is_eof():
                    return
                await asyncio.sleep(RESIZE_PAUSE)

    async def _resize(self, cols: int, rows: int) -> None:
        with translated(Subject(self._handle.flow_id, operation="resize")):
            await self._client.call(
                "POST", f"{self._where}/resize", params={"h": str(rows), "w": str(cols)}, timeout=READ_SECONDS
            )

    async def wait(self) -> int | None:
        """Asked for after the end of the output; None where the engine can't tell."""
        for _ in range(CODE_TRIES):
            try:
                with translated(Subject(self._handle.flow_id)):
                    running, code = self._ended_with(
                        (await self._client.call("GET", f"{self._where}/json", timeout=READ_SECONDS)).data
                    )
            except FlowManagerError:
                return None
            if not running:
                return code
            await asyncio.sleep(CODE_PAUSE)
        return None

    def _ended_with(self, data: Any) -> tuple[bool, int | None]:
        raise NotImplementedError

    async def close(self) -> None:
        self._stream.close()


class MainTerminal(DockerTerminal):
    """The container's own terminal; the program goes on without us."""

    def __init__(self, client: EngineClient, handle: Handle, stream: Hijacked) -> None:
        super().__init__(client, handle, stream, f"containers/{handle.runtime_id}")

    def _ended_with(self, data: Any) -> tuple[bool, int | None]:
        return dig(data, "State", "Running") is True, whole(dig(data, "State", "ExitCode"))


class ExecTerminal(DockerTerminal):
    """A program of its own; all that it started ends with it."""

    def __init__(
        self,
        client: EngineClient,
        handle: Handle,
        stream: Hijacked,
        exec_id: str,
        mark: str,
        ended: Callable[[ExecTerminal], None],
    ) -> None:
        super().__init__(client, handle, stream, f"exec/{exec_id}")
        self._ended = ended
        self._mark = mark
        self._missing = False
        self._began = False
        self._ending: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        data = await super().read()
        if not self._began:
            self._began = True
            self._missing = any(words in data for words in MISSING)
        if not data and self._ending is None:
            # The shell has left; what it started in the background ends with its terminal.
            await self.close()
        return data

    def _ended_with(self, data: Any) -> tuple[bool, int | None]:
        code = whole(dig(data, "ExitCode"))
        if code == NOT_RUNNABLE and self._missing:
            code = NOT_FOUND  # the engine says 126 for both; a shell does not
        return dig(data, "Running") is True, code

    async def close(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(), name="terminal-end")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        try:
            # A container that is about to end is seen to run, and has nothing to be ended a moment later.
            if not await self._end_here() and not await self._end_inside() and await self._container_pid():
                log.warning("processes of a terminal in flow %s could not be ended", self._handle.flow_id)
        except FlowManagerError as error:
            # A container that has stopped holds no process.
            log.info("a terminal's processes were not looked for: %s", error.message)
        finally:
            self._stream.close()
            self._ended(self)

    async def _end_here(self) -> bool:
        """False: they are not on this machine, or not to be seen from here."""
        container = self._handle.runtime_id
        pid = await self._container_pid()
        if not pid:
            return True  # it does not run
        if not await asyncio.to_thread(marked.on_this_machine, pid, container):
            return False
        with translated(Subject(self._handle.flow_id)):
            shell = await self._client.call("GET", f"{self._where}/json", timeout=READ_SECONDS)
        session = whole(dig(shell.data, "Pid")) or None
        return await marked.seen_here(container, self._mark, session).end()

    async def _container_pid(self) -> int:
        with translated(Subject(self._handle.flow_id)):
            state = await self._client.call("GET", f"containers/{self._handle.runtime_id}/json", timeout=READ_SECONDS)
        return whole(dig(state.data, "State", "Pid")) or 0

    async def _end_inside(self) -> bool:
        body = {
            "AttachStdout": True,
            "AttachStderr": True,
            "Cmd": marked.ending_inside(self._mark, hang_up=True),
        }
        with translated(Subject(self._handle.flow_id, operation="exec")):
            made = await self._client.call(
                "POST", f"containers/{self._handle.runtime_id}/exec", body=body, timeout=READ_SECONDS
            )
            ender = text(dig(made.data, "Id"))
            stream = await self._client.hijack(
                f"exec/{ender}/start", body={"Detach": False, "Tty": False}, timeout=START_SECONDS
            )
            try:
                async with asyncio.timeout(END_SECONDS):
                    while await stream.read():
                        pass
            except TimeoutError:
                return False
            finally:
                stream.close()
            ended = await self._client.call("GET", f"exec/{ender}/json", timeout=READ_SECONDS)
        return whole(dig(ended.data, "ExitCode")) == 0
