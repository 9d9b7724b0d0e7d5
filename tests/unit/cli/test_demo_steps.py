"""The demo tells the truth: a step that did not happen is never shown as seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flow_manager.cli.demo_place import Place, choose
from flow_manager.cli.demo_steps import Demo, NotSeen, write_program


async def shown(place: Place) -> tuple[list[str], Demo, Exception | None]:
    steps: list[str] = []
    demo = Demo(place, show_step=lambda words, _seconds: steps.append(words), show_entry=lambda _entry: None)
    try:
        await demo.run()
    except Exception as exc:
        return steps, demo, exc
    return steps, demo, None


@pytest.mark.parametrize(
    ("script", "step", "reason"),
    [
        ("raise SystemExit(3)", "it has connected to its channel", "exit code 3"),
        (
            "from flow_sdk import Flow\nf = Flow()\nf.on_message(lambda body: {'echo': 'something else'})\nf.run()",
            "it was sent a message and has replied",
            "something else",
        ),
        (
            "import runpy\nfrom http.server import BaseHTTPRequestHandler as H\n"
            "H.send_response, send = (lambda self, code, *a: send(self, 500, *a)), H.send_response\n"
            "runpy.run_path('main.py', run_name='__main__')",
            "an HTTP request has woken it and was answered",
            "500",
        ),
    ],
)
async def test_a_step_that_did_not_happen_is_named_with_the_reason(script: str, step: str, reason: str) -> None:
    steps, demo, error = await shown(Place("process", "local", [sys.executable, "-c", script], "a test"))
    assert isinstance(error, NotSeen)
    assert reason in str(error)
    assert demo.step == step
    assert step not in steps
    assert list(Path("/tmp").glob(f"fm-demo-{os.getpid()}-*")) == []


async def test_every_step_is_seen_and_the_wakes_steps_are_shown() -> None:
    steps: list[str] = []
    wakes: list[str] = []
    await Demo(
        Place("process", "local", [sys.executable, "main.py"], "a test"),
        show_step=lambda words, _seconds: steps.append(words),
        show_entry=lambda _entry: None,
        show_wake=lambda step: wakes.append(step.type),
    ).run()
    # On a busy machine the first start's own "ready" comes after the subscription.
    assert "starting" in wakes and wakes[-1] == "ready"
    assert steps[-1] == "nothing is left: no flow, no socket, no folder"
    assert "nobody used it, and it has fallen asleep" in steps
    assert list(Path("/tmp").glob(f"fm-demo-{os.getpid()}-*")) == []


async def test_a_flow_that_cannot_be_created_is_the_services_own_refusal() -> None:
    _steps, demo, error = await shown(Place("process", "no-such-image", ["x"], "a test"))
    assert demo.step == "a flow is created"
    assert "no-such-image" in str(error)


def test_the_flows_program_stands_alone(tmp_path: Path) -> None:
    write_program(tmp_path / "code")
    assert {path.name for path in (tmp_path / "code").iterdir()} == {"main.py", "flow_sdk.py"}
    assert "flow_manager" not in (tmp_path / "code" / "main.py").read_text()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:///nowhere.sock", "No such file"),
        ("ssh://host", "can't be looked at"),
        ("tcp://127.0.0.1:1", "refused"),
    ],
)
def test_without_an_engine_the_place_is_here_and_says_why(address: str, reason: str) -> None:
    place = choose(None, {"DOCKER_HOST": address}, lambda _words: None)
    assert place.runtime == "process"
    assert reason in place.reason
    with pytest.raises(LookupError):
        choose("docker", {"DOCKER_HOST": address}, lambda _words: None)
