"""The channel through a bind mount, in real containers: other users than root, restarts of the manager, a paused flow."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import ReplyTimeout
from flow_manager.testing import eventually

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))
import engine_api  # noqa: E402  (by path: scripts are no package)
import images  # noqa: E402

FLOW = "aaaabbbbcccc"
NOBODY = "65534:65534"
COMMANDS = {"python": ["python3", "/flow/echo.py"], "shell": ["sh", "/flow/echo.sh"]}
RunContainer = Callable[..., Awaitable[Callable[..., Awaitable[Any]]]]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The examples and the SDK, readable by whatever user runs in the container."""
    folder = tmp_path / "flow"
    folder.mkdir(mode=0o755)
    for path in (ROOT / "examples" / "echo.py", ROOT / "examples" / "echo.sh"):
        shutil.copy(path, folder)
    shutil.copy(ROOT / "flow_sdk" / "__init__.py", folder / "flow_sdk.py")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture
async def run_container(docker_engine: str, manager: Any, code: Path) -> AsyncIterator[RunContainer]:
    """Runs a command in a container as the flow; gives a way to act on it (`pause`, `unpause`, `stop`)."""
    made: list[str] = []

    async def call(method: str, path: str, **options: Any) -> Any:
        return await asyncio.to_thread(engine_api.request, docker_engine, method, path, **options)

    async def run(command: list[str], user: str) -> Callable[..., Awaitable[Any]]:
        name = f"channel-test-{uuid.uuid4().hex[:8]}"
        mounts = [
            {"Type": "bind", "Source": str(manager.handler.folder(FLOW)), "Target": "/run/flow"},
            {"Type": "bind", "Source": str(code), "Target": "/flow", "ReadOnly": True},
        ]
        config = {
            "Image": images.PYTHON,
            "Cmd": command,
            "User": user,
            "Env": [f"FLOW_ID={FLOW}", f"FLOW_SOCKET=/run/flow/{FLOW}.sock", "PYTHONDONTWRITEBYTECODE=1"],
            "HostConfig": {"Mounts": mounts, "NetworkMode": "none"},
        }
        await call("POST", "/containers/create", params={"name": name}, body=config)
        made.append(name)
        await call("POST", f"/containers/{name}/start")

        async def act(what: str, **params: Any) -> Any:
            if what == "inspect":
                return await call("GET", f"/containers/{name}/json")
            return await call("POST", f"/containers/{name}/{what}", params=params)

        return act

    yield run
    for name in made:
        await call("DELETE", f"/containers/{name}", params={"force": "1", "v": "1"})


@pytest.mark.parametrize("user", [NOBODY, "0:0"], ids=["nobody", "root"])
@pytest.mark.parametrize("language", ["python", "shell"])
async def test_a_flow_in_a_container_answers_and_survives_a_restart_of_the_manager(
    manager: Any, run_container: RunContainer, language: str, user: str
) -> None:
    act = await run_container(COMMANDS[language], user)
    await manager.ready()
    assert await manager.ask({"n": 0}) == {"echo": {"n": 0}}
    started = (await act("inspect"))["State"]["StartedAt"]
    for restart in (1, 2):
        await manager.stop()
        assert not manager.sockets_dir.joinpath(FLOW, f"{FLOW}.sock").exists()
        await manager.start()
        await manager.ready(1 + restart)
        assert await manager.ask({"n": restart}) == {"echo": {"n": restart}}
    state = (await act("inspect"))["State"]
    assert (state["Running"], state["StartedAt"]) == (True, started), "it was the same run all along"
    peer = manager.handler._channels[FLOW].connection.peer
    assert peer.uid == int(user.split(":")[0])


async def test_a_paused_flow_costs_a_bounded_wait_and_answers_once_it_goes_on(
    manager: Any, run_container: RunContainer
) -> None:
    act = await run_container(COMMANDS["python"], NOBODY)
    await manager.ready()
    await act("pause")
    waited_for = set()
    for _ in range(20):
        with pytest.raises(ReplyTimeout) as caught:
            await manager.handler.send_message(FLOW, {"x": "y" * 60_000}, timeout=0.1)
        waited_for.add(caught.value.details["waited_for"])
    assert waited_for == {"ack", "write"}, "written while the socket takes it, then not even that"
    await act("unpause")
    assert await manager.ask({"n": 1}) == {"echo": {"n": 1}}


async def test_a_stopped_flow_ends_cleanly_and_is_gone(manager: Any, run_container: RunContainer) -> None:
    act = await run_container(COMMANDS["shell"], NOBODY)
    await manager.ready()
    manager.handler.announce_stopping(FLOW, 10)
    await act("stop", t=5)
    state = (await act("inspect"))["State"]
    assert state["ExitCode"] == 0
    await eventually(lambda: not manager.handler.is_socket_connected(FLOW))


async def test_a_flow_that_is_root_cannot_turn_the_next_manager_against_the_host(
    manager: Any, run_container: RunContainer, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    precious.chmod(0o600)
    # All that such a flow can do to its folder: our socket replaced by a link to a file of the host.
    act = await run_container(["sh", "-c", f"rm /run/flow/*; ln -s {precious} /run/flow/{FLOW}.sock"], "0:0")
    await act("wait")
    await manager.stop()
    await manager.start()
    assert precious.read_text() == "keep"
    assert precious.stat().st_mode & 0o777 == 0o600
    assert manager.handler.socket_path(FLOW).is_socket()
    assert not manager.handler.socket_path(FLOW).is_symlink()
