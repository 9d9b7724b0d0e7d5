"""The examples, each as a real flow: it answers, survives a restart of the manager, and ends when asked to."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from typing import Any

import pytest

BODIES: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"text": 'x} "quoted" \\ \n ä 🎉 $(date) `id` %s'},
    {"deep": [[{"a": None}]]},
]
EXAMPLES = {
    "python": [sys.executable, "examples/echo.py"],
    "shell": ["sh", "examples/echo.sh"],
    "node": ["node", "examples/echo.mjs"],
}


def needs(name: str) -> None:
    """Skip where a tool is missing; where everything is required (CI), fail."""
    if shutil.which(name) is None:
        reason = f"{name} is not installed"
        if os.environ.get("FLOW_MANAGER_REQUIRE_ENGINE") == "1":
            pytest.fail(f"FLOW_MANAGER_REQUIRE_ENGINE=1, and {reason}", pytrace=False)
        pytest.skip(f"NOT TESTED: {reason}")


async def status_of(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


@pytest.fixture(
    params=[
        pytest.param("python"),
        pytest.param("shell"),
        pytest.param("node", marks=pytest.mark.node),
    ]
)
def example(request: pytest.FixtureRequest) -> list[str]:
    if request.param != "python":
        needs({"shell": "socat", "node": "node"}[request.param])
    return EXAMPLES[request.param]


async def test_it_gives_every_message_back(manager: Any, run_flow: Any, example: list[str]) -> None:
    run_flow(*example)
    await manager.ready()
    for body in BODIES:
        assert await manager.ask(body) == {"echo": body}
    assert manager.listener.named("bad_frame") == []


async def test_it_comes_back_after_the_manager_was_restarted(manager: Any, run_flow: Any, example: list[str]) -> None:
    program = run_flow(*example)
    await manager.ready()
    for restart in (1, 2):
        await manager.stop()
        await asyncio.sleep(0.3 * restart)
        await manager.start()
        await manager.ready(1 + restart)
        assert await manager.ask({"restart": restart}) == {"echo": {"restart": restart}}
    assert program.process.poll() is None


async def test_it_waits_for_a_manager_that_is_not_there_yet(manager: Any, run_flow: Any, example: list[str]) -> None:
    path = str(manager.handler.socket_path("aaaabbbbcccc"))
    await manager.handler.cleanup_socket("aaaabbbbcccc")
    program = run_flow(*example, FLOW_SOCKET=path)
    await asyncio.sleep(0.7)
    assert program.process.poll() is None
    await manager.handler.setup_socket("aaaabbbbcccc")
    await manager.ready()


async def test_it_ends_cleanly_on_sigterm(manager: Any, run_flow: Any, example: list[str]) -> None:
    program = run_flow(*example)
    await manager.ready()
    code, errors = await program.end()
    assert (code, errors) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_it_works_as_a_user_that_is_not_root(manager: Any, run_flow: Any, example: list[str]) -> None:
    # On the host the parent folder keeps others out; a container gets the flow's folder alone. So does this one: a mount
    # namespace of its own, the folder bound to a place that all may reach, and then another user.
    for tool in ("unshare", "setpriv"):
        needs(tool)
    folder = manager.handler.folder("aaaabbbbcccc")
    script = (
        'set -e; mount --bind "$FOLDER" /mnt; shift 0; exec setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"'
    )
    inside = ["unshare", "--mount", "sh", "-c", script, "sh", *example]
    if await status_of("unshare", "--mount", "true"):
        pytest.skip("no mount namespaces here")
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    assert await status_of(*as_nobody, "ls", str(folder)), "closed on the host"
    if await status_of(*as_nobody, example[0], "--version") in (126, 127):
        pytest.skip(f"another user may not run {example[0]} here")
    run_flow(*inside, FOLDER=str(folder), FLOW_SOCKET="/mnt/aaaabbbbcccc.sock")
    await manager.ready()
    assert await manager.ask({"who": "nobody"}) == {"echo": {"who": "nobody"}}
    assert manager.handler._channels["aaaabbbbcccc"].connection.peer.uid == 65534
