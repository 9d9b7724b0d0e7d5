"""Real programs as flows: the examples and the SDK, each in a process of its own, against a handler on a real folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.settings.models import ChannelSettings
from flow_manager.testing import eventually
from flow_manager.util.clock import SystemClock

ROOT = Path(__file__).resolve().parents[3]
FLOW = "aaaabbbbcccc"
SLOW_START = 15.0


class Recorder:
    """A ChannelListener that writes down every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("flow_"):
            raise AttributeError(name)
        return lambda *args: self.calls.append((name.removeprefix("flow_"), *args))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Manager:
    """A handler that can be restarted as a manager would be, on the same folder."""

    def __init__(self, sockets_dir: Path) -> None:
        self.listener = Recorder()
        self.sockets_dir = sockets_dir
        self.handler: SocketCommunicationHandler | None = None

    async def start(self) -> SocketCommunicationHandler:
        self.handler = SocketCommunicationHandler(self.sockets_dir, ChannelSettings(), self.listener, SystemClock())
        await self.handler.open()
        await self.handler.setup_socket(FLOW)
        return self.handler

    async def stop(self) -> None:
        if self.handler is not None:
            await self.handler.close()
            self.handler = None

    async def ready(self, count: int = 1) -> None:
        """Until the flow has said ready so often."""
        await eventually(lambda: len(self.listener.named("ready")) >= count, SLOW_START, what="the flow is ready")

    async def ask(self, body: dict[str, Any], timeout: float = 10.0) -> Any:
        assert self.handler is not None
        return (await self.handler.send_message(FLOW, body, expect_reply=True, timeout=timeout)).reply


@pytest.fixture
def sockets_dir() -> Iterator[Path]:
    # Not tmp_path: its name carries the test's, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        yield Path(folder) / "s"


@pytest.fixture
async def manager(sockets_dir: Path) -> AsyncIterator[Manager]:
    manager = Manager(sockets_dir)
    await manager.start()
    yield manager
    await manager.stop()


class Program:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait: exit status and what it wrote to standard error."""
        self.process.send_signal(number)
        _, errors = await asyncio.to_thread(self.process.communicate, timeout=10)
        return self.process.returncode, errors


@pytest.fixture
def run_flow(manager: Manager) -> Iterator[Callable[..., Program]]:
    """Runs a command as the flow."""
    programs: list[Program] = []

    def run(*command: str, **environment: str) -> Program:
        assert manager.handler is not None
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "PYENV_ROOT") if name in os.environ},
            "FLOW_ID": FLOW,
            "FLOW_SOCKET": str(manager.handler.socket_path(FLOW)),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        programs.append(Program(process))
        return programs[-1]

    yield run
    for program in programs:
        try:
            os.killpg(program.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        program.process.communicate()


@pytest.fixture
def run_python(run_flow: Callable[..., Program], tmp_path: Path) -> Callable[[str], Program]:
    """Runs the text of a program with the SDK."""

    def run(text: str) -> Program:
        (tmp_path / "flow.py").write_text(text)
        return run_flow(sys.executable, str(tmp_path / "flow.py"))

    return run
