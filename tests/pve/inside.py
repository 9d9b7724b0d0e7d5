"""What happens inside a container when it starts and ends: addresses, an HTTP server, a real program, a console's shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.pve.answers import Answers
from tests.pve.container import Container
from tests.pve.terminal import Terminal

HTTP_PORT = 8080
# What `lxc-attach --clear-env` and an init of LXC start with.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where the emulated container has its address: a real one has a network of its own and needs no such thing.
ADDRESS = "PVE_EMULATOR_ADDRESS"
# By which all that was started on a console is found when its container stops: a real one takes it along.
WITHIN = "PVE_EMULATOR_CT"
# A console with cmode=tty: nobody has a password here.
LOGIN = (
    'while :; do printf "%s login: " "$CT_NAME"; read -r name || exit; printf "Password: "; read -r secret || exit; '
    'sleep 1; echo; echo "Login incorrect"; done'
)


class Inside:
    def __init__(self, answers: Answers, clock: Callable[[], float], *, http_port: int = HTTP_PORT) -> None:
        self.answers = answers
        self._clock = clock
        self._http_port = http_port
        self._pid = 4000
        self._late: dict[int, asyncio.Task[None]] = {}
        self._watched: set[asyncio.Task[None]] = set()
        self._spawning: set[asyncio.Task[None]] = set()

    async def settle(self) -> None:
        """Wait for programs that are about to begin: then they can be ended."""
        if self._spawning:
            await asyncio.wait(self._spawning)

    async def close(self) -> None:
        for late in [*self._late.values(), *self._watched]:
            late.cancel()
        if waited := [*self._late.values(), *self._watched]:
            await asyncio.wait(waited)

    def later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that happens by itself, in a while."""
        task = asyncio.create_task(work)
        self._watched.add(task)
        task.add_done_callback(self._watched.discard)
        return task

    # --- start ------------------------------------------------------------------------------------------------------

    async def start(self, container: Container) -> None:
        """Its init runs when this returns. :raises OSError: it could not be started."""
        if container.running:
            return
        self._prepare(container)
        if entrypoint := container.config.get("entrypoint"):
            await self._run(container, str(entrypoint))
        try:
            self._mark(container)
        except OSError:
            if container.program is not None:
                await container.program.close()
            raise

    def start_soon(self, container: Container) -> None:
        """The same for those who can't wait: it counts as running at once, and a program follows."""
        self._prepare(container)
        if entrypoint := container.config.get("entrypoint"):
            spawning = self.later(self._run_soon(container, str(entrypoint)))
            self._spawning.add(spawning)
            spawning.add_done_callback(self._spawning.discard)
        self._mark(container)

    async def _run_soon(self, container: Container, entrypoint: str) -> None:
        await self._run(container, entrypoint)
        if not container.running and container.program is not None:  # stopped meanwhile
            await container.program.close()

    def _prepare(self, container: Container) -> None:
        container.apply_pending()
        self._pid += 1
        container.pid = self._pid
        container.address = self.answers.address(container.vmid)
        container.program = None

    def _mark(self, container: Container) -> None:
        bound = None
        if self.serves(container) and container.behaviour.boot <= 0:
            bound = self.answers.bind(str(container.address), self.port(container))
        container.set_status("running", self._clock)
        container.lingers_until = 0.0
        container.started_at = self._clock()
        if self.serves(container):
            self._late[container.vmid] = asyncio.create_task(self._listen(container, bound))

    def serves(self, container: Container) -> bool:
        serves = container.behaviour.serves
        return not container.config.get("entrypoint") if serves is None else serves

    def port(self, container: Container) -> int:
        wanted = container.environment.get("PORT", "")
        return container.behaviour.port or (int(wanted) if wanted.isdigit() else self._http_port)

    async def _listen(self, container: Container, bound: socket.socket | None) -> None:
        address = str(container.address)
        if bound is None:
            await asyncio.sleep(container.behaviour.boot)
            bound = self.answers.bind(address, self.port(container))
        try:
            await self.answers.listen(address, bound)
        except BaseException:
            bound.close()
            raise

    async def _run(self, container: Container, entrypoint: str) -> None:
        program = Terminal()
        environment = {
            # The interpreter of the tests is at hand in every emulated container.
            "PATH": f"{PATH}:{Path(sys.executable).parent}",
            "container": "lxc",
            "TERM": "linux",
            ADDRESS: str(container.address),
            **container.environment,
        }
        if shutil.which(shlex.split(entrypoint)[0], path=environment["PATH"]) is None:
            raise FileNotFoundError(f"exec: {shlex.split(entrypoint)[0]}: not found")  # no init: LXC gives the start up
        container.folder.mkdir(parents=True, exist_ok=True)
        await program.open(("/bin/sh", "-c", f"exec {entrypoint}"), environment, container.folder)
        container.program = program
        container.pid = program.pid
        self.later(self._watch(container, program))

    async def _watch(self, container: Container, program: Terminal) -> None:
        await program.ended.wait()
        if container.program is program and container.running:
            await self.stop(container)

    # --- end --------------------------------------------------------------------------------------------------------

    async def shutdown(self, container: Container, timeout: float) -> bool:
        """Ask it to end; False when it still runs after `timeout` seconds."""
        behaviour = container.behaviour
        if container.program is not None:
            if not behaviour.ignores_shutdown:
                halt = dict(container.raw).get("lxc.signal.halt", "SIGTERM")
                container.program.signal(getattr(signal, halt, signal.SIGTERM))
            try:
                async with asyncio.timeout(timeout):
                    await container.program.ended.wait()
            except TimeoutError:
                return False
        elif behaviour.ignores_shutdown or behaviour.stop_time > timeout:
            await asyncio.sleep(timeout)
            return False
        else:
            await asyncio.sleep(behaviour.stop_time)
        await self.stop(container)
        return True

    async def stop(self, container: Container) -> None:
        """SIGKILL to all that is in it; done when this returns."""
        if (late := self._late.pop(container.vmid, None)) is not None:
            late.cancel()
            await asyncio.wait([late])
        if container.running:
            container.set_status("stopped", self._clock)
            container.lingers_until = self._clock() + container.cluster.timing.linger
        container.started_at = None
        container.pid = None
        if container.address is not None:
            await self.answers.hush(container.address)
        for terminal in (container.session, container.program):
            if terminal is not None:
                await terminal.close()
        if container.session is not None:
            await asyncio.to_thread(_end_all, f"{WITHIN}={self._within(container)}\0".encode())
        container.session = None
        container.apply_pending()

    @staticmethod
    def _within(container: Container) -> str:
        return str(container.folder)  # of this emulator's own run alone

    def remove(self, container: Container) -> None:
        shutil.rmtree(container.folder, ignore_errors=True)

    # --- console ----------------------------------------------------------------------------------------------------

    async def console(self, container: Container, *, prompt: str | None = None) -> Terminal:
        """The one session of the container: the first who asks makes it, the next ones join."""
        mode = container.config.get("cmode", "tty")
        if mode == "console" and container.program is not None:
            return container.program
        if container.session is None or container.session.ended.is_set():
            session = Terminal()
            environment = {"PATH": PATH, "container": "lxc", "TERM": "linux", "CT_NAME": container.name}
            environment[WITHIN] = self._within(container)
            environment["HOME"] = str(container.folder)  # `/root`, in a real one
            if prompt is not None:
                environment["PS1"] = prompt
            container.folder.mkdir(parents=True, exist_ok=True)
            command = ("/bin/sh",) if mode == "shell" else ("/bin/sh", "-c", LOGIN)
            await session.open(command, environment, container.folder)
            container.session = session
        return container.session


def _end_all(mark: bytes) -> None:
    """SIGKILL to whatever bears it, until nothing does."""
    found = True
    while found:
        found = False
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes():
                    os.kill(int(path.name), signal.SIGKILL)
                    found = True
