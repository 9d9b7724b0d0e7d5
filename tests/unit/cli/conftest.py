from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.client import fake_service


@pytest.fixture
def fake() -> ModuleType:
    return fake_service


@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FLOW_MANAGER_"):
            monkeypatch.delenv(name)


async def end_tasks() -> None:
    """What the server library leaves behind would complain when its loop is closed."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture
def service(fake: ModuleType) -> Iterator[Any]:
    """The fake in a thread with a loop of its own: the verbs run loops of theirs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    async def made() -> Any:
        return fake.FakeService()

    running = wait(made())
    running.wait = wait
    wait(running.start())
    yield running
    wait(running.stop())
    wait(end_tasks())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`run("ps", "--json")` → the result, with exit_code, stdout and stderr."""
    from flow_manager.cli.main import build

    def call(*arguments: str, input: str | None = None, **variables: str) -> Any:
        return CliRunner().invoke(build(), list(arguments), input=input, env=variables, prog_name="flow-manager")

    return call
