"""The process runtime on folders of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flow_manager.runtimes.process.provider import ProcessProvider
from tests.contract.harness_process import ProcessHarness
from tests.contract.harness_process import harness as make_harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ProcessHarness]:
    async with make_harness(tmp_path) as ready:
        yield ready


@pytest.fixture
async def provider(harness: ProcessHarness) -> AsyncIterator[ProcessProvider]:
    made = harness.make(harness.instance)
    await made.open()
    yield made
    await made.close()
