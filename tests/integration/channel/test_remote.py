"""A flow on another machine: the SDK in a process of its own, told nothing but its environment, against a whole service."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import socketio

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from flow_manager.testing import MemoryEngine, MemoryRuntime, eventually

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 15.0


def free_port() -> int:
    """One that a restarted service can have again; flows were told it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Away:
    """A service whose flows run elsewhere: a runtime without a socket that they could reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = MemoryEngine()
        self.port = free_port()
        self.service: Service | None = None
        self.client: socketio.AsyncClient | None = None
        self._stack = AsyncExitStack()

    async def start(self, **channel: Any) -> None:
        runtime = MemoryRuntime(instance="here", engine=self.engine)
        runtime.capabilities = replace(runtime.capabilities, local_socket=False)
        settings = Settings.model_validate(
            {
                "port": 0,
                "proxy_port": 0,
                "instance": "here",
                "state_dir": self.root / "state",
                "sockets_dir": self.root / "s",
                "log": {"level": "DEBUG", "file": self.root / "log"},
                "channel": {"tls_listen": f"127.0.0.1:{self.port}", **channel},
            }
        )
        self.service = await self._stack.enter_async_context(Service(settings, runtimes={"memory": runtime}))
        self.client = socketio.AsyncClient(reconnection=False)
        await self.client.connect(self.service.url, transports=["websocket"])
        self._stack.push_async_callback(self.client.disconnect)

    async def stop(self) -> None:
        await self._stack.aclose()

    async def call(self, event: str, **data: Any) -> dict[str, Any]:
        assert self.client is not None
        reply: dict[str, Any] = await self.client.call(event, data, timeout=30)
        return reply

    async def ok(self, event: str, **data: Any) -> Any:
        reply = await self.call(event, **data)
        assert reply["error"] is False, reply
        return reply["data"]

    def told(self, flow_id: str) -> dict[str, str]:
        """What the flow finds in its environment."""
        return self.engine.flows[flow_id].environment()

    async def connected(self, flow_id: str, wanted: bool = True) -> None:
        async def seen() -> bool:
            status = await self.ok("get_status", container_id=flow_id)
            return bool(status["socket_connected"]) is wanted

        await eventually(seen, PATIENCE)


@pytest.fixture
async def away(sockets_dir: Path) -> AsyncIterator[Away]:
    sockets_dir.parent.mkdir(exist_ok=True)
    away = Away(sockets_dir.parent)
    await away.start()
    yield away
    await away.stop()
    await away.engine.close()
    # The client's connector closes its sockets in the next turns of the loop.
    await asyncio.sleep(0.01)


Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run_there() -> Iterator[Run]:
    """Runs a program that is told nothing but these variables."""
    programs: list[subprocess.Popen[str]] = []

    def run(told: dict[str, str], *command: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **told,
        }
        command = command or (sys.executable, "examples/echo.py")
        programs.append(
            subprocess.Popen(
                command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        return programs[-1]

    yield run
    for program in programs:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        program.communicate()


async def ended(program: subprocess.Popen[str]) -> tuple[int, str]:
    program.send_signal(signal.SIGTERM)
    _, errors = await asyncio.to_thread(program.communicate, timeout=10)
    return program.returncode, errors


async def make(away: Away, **fields: Any) -> str:
    command = fields.pop("command", ["sleep"])
    info = await away.ok("create_container", image="memory", command=command, start=True, **fields)
    assert info["socket_path"] is None
    return str(info["id"])


async def test_the_sdk_answers_over_tls_with_nothing_but_its_environment(away: Away, run_there: Run) -> None:
    flow_id = await make(away)
    told = away.told(flow_id)
    assert set(told) == {"FLOW_ID", "FLOW_URL", "FLOW_TOKEN", "FLOW_CA"}
    assert not any("\n" in value for value in told.values()), "not every runtime can pass a line's end on"
    program = run_there(told)
    await away.connected(flow_id)
    body = {"text": "x} \\ ä 🎉", "long": "y" * 200_000}
    data = await away.ok("send_message", container_id=flow_id, message=body, expect_reply=True)
    assert data["delivered"] is True
    assert data["reply"] == {"echo": body}
    status = await away.ok("get_status", container_id=flow_id)
    assert status["last_communication"] is not None
    assert await ended(program) == (0, "")
    await away.connected(flow_id, False)
    reply = await away.call("send_message", container_id=flow_id, message={})
    assert reply["code"] == "not_connected"


async def test_it_comes_back_after_a_restart_of_the_manager(away: Away, run_there: Run) -> None:
    flow_id = await make(away)
    before = away.told(flow_id)
    program = run_there(before)
    await away.connected(flow_id)
    await away.stop()
    await away.start()
    await away.connected(flow_id)
    data = await away.ok("send_message", container_id=flow_id, message={"a": 1}, expect_reply=True)
    assert data["reply"] == {"echo": {"a": 1}}
    assert await ended(program) == (0, "")


async def test_a_stopped_or_deleted_flow_is_turned_away(away: Away, run_there: Run) -> None:
    flow_id = await make(away)
    told = away.told(flow_id)
    program = run_there(told)
    await away.connected(flow_id)
    # Its program goes on although the flow has ended: it was copied from there, say.
    await away.ok("stop_container", container_id=flow_id)
    await away.connected(flow_id, False)
    await away.ok("start_container", container_id=flow_id)
    await away.connected(flow_id)
    await away.ok("delete_container", container_id=flow_id, force=True)
    other = await make(away)
    stolen = run_there({**away.told(other), "FLOW_TOKEN": told["FLOW_TOKEN"]})
    _, errors = await told_of_refusal(program)
    assert "is known and awake" in errors
    _, errors = await told_of_refusal(stolen)
    assert "is known and awake" in errors
    status = await away.ok("get_status", container_id=other)
    assert status["socket_connected"] is False


async def told_of_refusal(program: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until the program has said on standard error that it is refused; then end it."""
    assert program.stderr is not None
    async with asyncio.timeout(PATIENCE):
        line = await asyncio.to_thread(program.stderr.readline)
    code, rest = await ended(program)
    return code, line + rest


async def test_a_manager_with_another_certificate_is_shown_no_token(away: Away, run_there: Run, tmp_path: Path) -> None:
    flow_id = await make(away)
    told = away.told(flow_id)
    await away.stop()
    (away.root / "state" / "channel" / "authority.pem").unlink()
    await away.start()
    program = run_there(told)
    _, errors = await told_of_refusal(program)
    assert "its certificate is not trusted" in errors
    assert (await away.ok("get_status", container_id=flow_id))["socket_connected"] is False
    assert told["FLOW_TOKEN"] not in errors


async def test_a_host_that_the_certificate_does_not_name_is_refused_by_the_sdk(away: Away, run_there: Run) -> None:
    flow_id = await make(away)
    told = away.told(flow_id)
    program = run_there({**told, "FLOW_URL": told["FLOW_URL"].replace("127.0.0.1", "localhost")})
    _, errors = await told_of_refusal(program)
    assert "its certificate is not trusted" in errors


async def test_readiness_by_the_channel_works_from_afar(away: Away, run_there: Run) -> None:
    flow_id = await make(away, idle={"idle_timeout": 0, "ready": {"channel": True}})
    assert (await away.ok("get_status", container_id=flow_id))["flow_state"] == "starting"
    run_there(away.told(flow_id))

    async def ready() -> bool:
        return bool((await away.ok("get_status", container_id=flow_id))["flow_state"] == "ready")

    await eventually(ready, PATIENCE)


async def test_a_message_wakes_a_sleeping_flow_and_reaches_it(away: Away) -> None:
    flow_id = await make(away, command=["echo"], idle={"idle_timeout": 0, "stop_timeout": 1})
    await away.connected(flow_id)
    await away.ok("sleep_container", container_id=flow_id)
    await away.connected(flow_id, False)
    data = await away.ok("send_message", container_id=flow_id, message={"n": 1}, expect_reply=True, wake=True)
    assert data["reply"] == {"echo": {"n": 1}}


async def test_no_reply_activity_or_log_holds_the_token(away: Away, run_there: Run) -> None:
    flow_id = await make(away, command=["env"], name="leaky")
    told = away.told(flow_id)
    token = told["FLOW_TOKEN"]
    program = run_there(
        told,
        sys.executable,
        "-c",
        "import os\nfrom flow_sdk import Flow\nflow = Flow()\nflow.ready()\n"
        "flow.event('leak', 'says', what='it is ' + os.environ['FLOW_TOKEN'])\nflow.run()\n",
    )
    await away.connected(flow_id)

    async def told_people() -> bool:
        entries = (await away.ok("list_activity"))["entries"]
        return any(entry["type"] == "actor_event" for entry in entries)

    await eventually(told_people, PATIENCE)
    seen = [
        await away.ok("get_container", container_id=flow_id),
        await away.ok("list_activity"),
        await away.call("create_container", image="memory", name="leaky"),
        await away.call("create_container", image="memory", environment={"FLOW_TOKEN": "mine"}),
    ]
    await ended(program)
    await away.stop()
    assert token not in repr(seen)
    assert "it is ***" in repr(seen)
    assert token not in (away.root / "log").read_text()
    assert seen[3]["code"] == "invalid_request"
    assert (away.root / "state" / "channel" / "token.key").stat().st_mode & 0o077 == 0


async def test_python_3_8_speaks_tls_too(away: Away, run_there: Run) -> None:
    if shutil.which("python3.8") is None:
        pytest.skip("python3.8 is not installed")
    extra = {"PYENV_VERSION": "3.8"}
    flow_id = await make(away)
    home = {name: os.environ[name] for name in ("HOME", "PYENV_ROOT") if name in os.environ}
    program = run_there({**away.told(flow_id), **home, **extra}, "python3.8", "-W", "error", "examples/echo.py")
    await away.connected(flow_id)
    data = await away.ok("send_message", container_id=flow_id, message={"a": 1}, expect_reply=True)
    assert data["reply"] == {"echo": {"a": 1}}
    assert await ended(program) == (0, "")


async def test_without_the_port_such_a_flow_runs_and_has_no_channel(away: Away) -> None:
    await away.stop()
    await away.start(tls_listen=None)
    flow_id = await make(away)
    assert set(away.told(flow_id)) == {"FLOW_ID"}
    reply = await away.call("send_message", container_id=flow_id, message={})
    assert reply["code"] == "not_connected"
    reply = await away.call("create_container", image="memory", command=["sleep"], idle={"ready": {"channel": True}})
    assert (reply["code"], reply["details"]["capability"]) == ("unsupported", "local_socket")


async def test_a_shell_with_socat_is_enough(away: Away, run_there: Run) -> None:
    if shutil.which("socat") is None:
        if os.environ.get("FLOW_MANAGER_REQUIRE_ENGINE") == "1":
            pytest.fail("FLOW_MANAGER_REQUIRE_ENGINE=1, and socat is not installed", pytrace=False)
        pytest.skip("NOT TESTED: socat is not installed")
    flow_id = await make(away)
    run_there(away.told(flow_id), "sh", "examples/remote.sh")
    await away.connected(flow_id)
    data = await away.ok("send_message", container_id=flow_id, message={"a": 1}, expect_reply=True)
    assert data["reply"] == {"echo": {"a": 1}}
