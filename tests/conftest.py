"""For all tests: which event loop, no leaks, and no silent skips where everything must run.

FLOW_MANAGER_TEST_LOOP=uvloop runs every test on uvloop instead of asyncio's own loop.
FLOW_MANAGER_TEST_EXPLORE=1 lets hypothesis try other examples in each run; else a run tries what the last one tried, so that
a fault that chance finds is found while looking for faults, and not in somebody's unrelated change.
FLOW_MANAGER_REQUIRE_ENGINE=1 (CI) makes a skipped test that is marked `browser`, `docker` or `node` a failure.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tests import leaks

REQUIRED = "FLOW_MANAGER_REQUIRE_ENGINE"
LOOP = "FLOW_MANAGER_TEST_LOOP"
EXPLORE = "FLOW_MANAGER_TEST_EXPLORE"
NEEDED = ("browser", "docker", "node")
NO_TASKS = "no_tasks_left"

pytest_plugins = ["tests.engine", "tests.node"]

# A deadline an example is a test of how busy the machine is.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get(EXPLORE) == "1" else "same")

# --- the event loop ---------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop for all; a test that names several (`mark.asyncio(loop_factories=["asyncio", "uvloop"])`) gets those."""
    known: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
    try:
        import uvloop
    except ImportError:
        pass  # an extra: tests that name it are skipped
    else:
        known["uvloop"] = uvloop.new_event_loop
    if any("loop_factories" in mark.kwargs for mark in item.iter_markers("asyncio")):
        return known
    chosen = os.environ.get(LOOP) or "asyncio"
    if chosen not in known:
        raise pytest.UsageError(f"{LOOP}={chosen}: there is only {', '.join(known)}")
    return {chosen: known[chosen]}


# --- leaks ------------------------------------------------------------------------------------------------------------


def pytest_itemcollected(item: pytest.Item) -> None:
    # First in, last out: after every other fixture of the test has ended. Not for tests without a loop of their own.
    on_a_loop = isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function)
    if on_a_loop and NO_TASKS not in item.fixturenames:
        item.fixturenames.insert(0, NO_TASKS)


@pytest.fixture
async def no_tasks_left() -> AsyncIterator[None]:
    yield
    left = await leaks.left_tasks()
    assert left == [], f"the test left {len(left)} tasks running: {left}"


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    # An engine that is started with the first test that needs it lives on, with helpers of its own.
    counted = request.node.get_closest_marker("docker") is None
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    before = leaks.children() if counted else set()
    yield
    if counted:
        left = leaks.left_children(before)
        assert left == [], f"the test left processes: {left}"
    if folder is not None:
        sockets = leaks.bound_sockets(folder)
        assert sockets == set(), f"the test left listening sockets: {sorted(sockets)}"


# --- skips ------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    needs = [name for name in NEEDED if item.get_closest_marker(name)]
    if os.environ.get(REQUIRED) == "1" and needs and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{REQUIRED}=1, and this test needs {' and '.join(needs)}: {reason}"
    return report  # type: ignore[return-value]
