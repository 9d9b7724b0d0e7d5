from __future__ import annotations

import pytest

from tests.unit.client import fake_service


@pytest.fixture
def fake():
    """The module of the fake: its `entry`, `STATUS` and `INFO`."""
    return fake_service


@pytest.fixture
async def service(fake):
    running = fake.FakeService()
    await running.start()
    yield running
    await running.stop()
