"""Each test of the suite runs on every runtime."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flow_manager.runtimes.base import Runtime
from tests.contract.harness import RuntimeHarness, opened

KINDS = [pytest.param("docker", marks=pytest.mark.docker), "process", "memory", "proxmox"]


@pytest.fixture(params=KINDS)
def parts(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    module = importlib.import_module(f"tests.contract.harness_{request.param}")
    return module, {name: request.getfixturevalue(name) for name in module.FIXTURES}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shells read start-up files from there: those of the person who runs the tests may do anything, or never end."""
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
async def harness(parts: tuple[Any, dict[str, Any]], tmp_path: Path) -> AsyncIterator[RuntimeHarness]:
    module, fixtures = parts
    async with module.harness(tmp_path, **fixtures) as ready:
        yield ready


@pytest.fixture
async def runtime(harness: RuntimeHarness) -> AsyncIterator[Runtime]:
    async with opened(harness) as runtime:
        yield runtime
