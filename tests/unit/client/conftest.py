from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _load_fake():
    name = "flow_manager_fake_service"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_service.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def fake():
    """The module of the fake: its `entry`, `STATUS` and `INFO`."""
    return _load_fake()


@pytest.fixture
async def service(fake):
    running = fake.FakeService()
    await running.start()
    yield running
    await running.stop()
