"""The SDK inside real programs, in a process of their own."""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import NotConnected
from flow_manager.testing import eventually

ROOT = Path(__file__).resolve().parents[3]
SDK = ROOT / "flow_sdk" / "__init__.py"
FLOW = "aaaabbbbcccc"


def test_it_is_one_file_of_the_standard_library_alone() -> None:
    assert [path.name for path in SDK.parent.iterdir() if path.suffix == ".py"] == ["__init__.py"]
    tree = ast.parse(SDK.read_text(), feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


def python_38() -> dict[str, str]:
    """The environment in which `python3.8` runs; skips where there is none."""
    if shutil.which("python3.8"):
        # A version manager's shim needs to be told.
        for extra in ({}, {"PYENV_VERSION": "3.8"}):
            probe = subprocess.run(
                ["python3.8", "-c", "import sys; print(sys.version_info[:2])"],
                env={**os.environ, **extra},
                capture_output=True,
                text=True,
                check=False,
            )
            if probe.stdout.strip() == "(3, 8)":
                return extra
    pytest.skip("python3.8 is not installed")


async def test_it_runs_on_python_3_8(manager: Any, run_flow: Any) -> None:
    extra = python_38()
    program = run_flow("python3.8", "-W", "error", "examples/echo.py", **extra)
    await manager.ready()
    assert await manager.ask({"a": 1}) == {"echo": {"a": 1}}
    await manager.stop()
    await manager.start()
    await manager.ready(2)
    assert await program.end() == (0, "")


async def test_it_works_as_a_copy_beside_the_program(manager: Any, run_flow: Any, tmp_path: Path) -> None:
    shutil.copy(SDK, tmp_path / "flow_sdk.py")
    shutil.copy(ROOT / "examples" / "echo.py", tmp_path)
    run_flow(sys.executable, str(tmp_path / "echo.py"), PYTHONPATH="")
    await manager.ready()
    assert await manager.ask({"a": 1}) == {"echo": {"a": 1}}


async def test_everything_that_a_flow_can_say_arrives(manager: Any, run_python: Any) -> None:
    run_python("""
from flow_sdk import Flow
flow = Flow()
assert flow.wait_connected(10)
flow.ready()
flow.busy(30, "thinking")
flow.idle()
flow.send({"a": 1})
flow.send("text")
flow.event("robot", "moved", to="B")
flow.busy(5)
flow.run()
""")
    await eventually(lambda: len(manager.listener.calls) >= 8)
    assert manager.listener.calls == [
        ("connected", FLOW),
        ("ready", FLOW),
        ("busy", FLOW, 30.0, "thinking"),
        ("idle", FLOW),
        ("message", FLOW, {"a": 1}),
        ("message", FLOW, "text"),
        ("actor_event", FLOW, "robot", "moved", {"to": "B"}),
        ("busy", FLOW, 5.0, None),
    ]


async def test_what_a_handler_raises_or_returns_never_ends_the_flow(manager: Any, run_python: Any) -> None:
    program = run_python("""
from flow_sdk import Flow
flow = Flow()
@flow.on_message
def handle(body):
    if body["do"] == "raise":
        raise ValueError("no good")
    if body["do"] == "object":
        return object()
    if body["do"] == "nan":
        return {"x": float("nan")}
    if body["do"] == "huge":
        return "x" * 2_000_000
    if body["do"] == "surrogate":
        return "\\ud800"
flow.ready()
flow.run()
""")
    await manager.ready()
    assert await manager.ask({"do": "raise"}) == {"error": "ValueError: no good"}
    for what in ("object", "nan", "huge", "surrogate"):
        assert "error" in await manager.ask({"do": what})
    assert await manager.ask({"do": "nothing"}) is None
    code, errors = await program.end()
    assert code == 0
    assert "ValueError: no good" in errors, "whoever wrote the flow finds the trace in its log"


async def test_a_message_without_a_handler_is_answered_too(manager: Any, run_python: Any) -> None:
    run_python("from flow_sdk import Flow\nflow = Flow()\nflow.ready()\nflow.run()\n")
    await manager.ready()
    assert await manager.ask({}) == {"error": "this flow takes no messages"}


async def test_a_slow_handler_acknowledges_at_once(manager: Any, run_python: Any) -> None:
    run_python("""
import threading
from flow_sdk import Flow
flow = Flow()
go = threading.Event()
@flow.on_message
def handle(body):
    flow.send("handling")
    go.wait(10)
    return "done"
@flow.on_stopping
def stopping(seconds):
    go.set()
flow.ready()
flow.run()
""")
    await manager.ready()
    asking = asyncio.create_task(manager.ask({}))
    await eventually(lambda: manager.listener.named("message") == [(FLOW, "handling")])
    delivery = await manager.handler.send_message(FLOW, {"second": True}, timeout=5)
    assert delivery.delivered
    assert not asking.done()
    # `stopping` reaches the flow although its handler is at work.
    manager.handler.announce_stopping(FLOW, 10)
    assert await asking == "done"


async def test_what_is_sent_while_the_manager_is_away_arrives_later_in_order(manager: Any, run_python: Any) -> None:
    run_python("""
import sys
from flow_sdk import Flow
flow = Flow()
flow.ready()
@flow.on_message
def handle(body):
    flow.busy(100, "long work")
flow.start()
import threading
def talk():
    n = 0
    while not stop.wait(0.02):
        flow.send({"n": n})
        n += 1
stop = threading.Event()
talker = threading.Thread(target=talk)
talker.start()
flow.run()
stop.set()
talker.join()
""")
    await manager.ready()
    await manager.ask({})
    for restart in (1, 2, 3):
        await manager.stop()
        await asyncio.sleep(0.3)
        await manager.start()
        await manager.ready(1 + restart)
    await asyncio.sleep(0.2)
    numbers = [body["n"] for _, body in manager.listener.named("message")]
    # Nothing is lost; what was not acknowledged when the manager went away may come twice.
    firsts = list(dict.fromkeys(numbers))
    assert firsts == list(range(len(firsts)))
    assert len(firsts) > 30
    assert len(numbers) - len(firsts) <= 6
    busy = manager.listener.named("busy")
    assert len(busy) == 4, "said again after each reconnect"
    assert all(90 < seconds <= 100 and reason == "long work" for _, seconds, reason in busy)


async def test_the_reply_under_way_still_gets_out_on_sigterm(manager: Any, run_python: Any) -> None:
    program = run_python("""
import time
from flow_sdk import Flow
flow = Flow()
@flow.on_message
def handle(body):
    flow.send("handling")
    time.sleep(0.5)
    return "done"
flow.ready()
flow.run()
print("clean")
""")
    await manager.ready()
    asking = asyncio.create_task(manager.ask({}))
    await eventually(lambda: manager.listener.named("message") == [(FLOW, "handling")])
    assert await program.end(signal.SIGTERM) == (0, "")
    assert await asking == "done"


async def test_many_threads_may_talk_at_once(manager: Any, run_python: Any) -> None:
    run_python("""
import threading
from flow_sdk import Flow
flow = Flow()
def talk(thread):
    for n in range(100):
        flow.send({"thread": thread, "n": n})
threads = [threading.Thread(target=talk, args=(t,)) for t in range(8)]
for t in threads: t.start()
flow.run()
""")
    await eventually(lambda: len(manager.listener.named("message")) == 800, 10)
    for thread in range(8):
        assert [b["n"] for _, b in manager.listener.named("message") if b["thread"] == thread] == list(range(100))
    assert manager.listener.named("bad_frame") == []


async def test_too_much_for_a_manager_that_is_away_is_an_error_and_not_a_hang(manager: Any, run_python: Any) -> None:
    await manager.handler.cleanup_socket(FLOW)
    program = run_python("""
import sys
from flow_sdk import BufferFull, Flow, FrameTooLarge
flow = Flow(buffer=10_000)
try:
    while True:
        flow.send("x" * 1000)
except BufferFull as exc:
    print(exc, file=sys.stderr)
try:
    flow.send("x" * 2_000_000)
except FrameTooLarge:
    print("too large", file=sys.stderr)
flow.ready()
flow.run()
""")
    await manager.handler.setup_socket(FLOW)
    await manager.ready()
    await eventually(lambda: len(manager.listener.named("message")) == 9)
    code, errors = await program.end()
    assert code == 0
    assert "bytes wait to be sent" in errors
    assert "too large" in errors


async def test_a_program_outside_a_flow_is_told_what_is_missing() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "examples/echo.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FLOW_SOCKET is not set" in done.stderr


async def test_a_flow_that_was_killed_is_gone_at_once(manager: Any, run_python: Any) -> None:
    program = run_python(
        "from flow_sdk import Flow\nimport time\nflow = Flow()\n"
        "flow.on_message(lambda body: time.sleep(20))\nflow.ready()\nflow.run()\n"
    )
    await manager.ready()
    asking = asyncio.create_task(manager.ask({}))
    await asyncio.sleep(0.1)
    program.process.kill()
    with pytest.raises(NotConnected):
        await asking
    assert not manager.handler.is_socket_connected(FLOW)
