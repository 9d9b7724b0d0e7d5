from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from loguru import logger

from flow_manager.observability.bridge import BRIDGED, Bridge


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def bridges() -> dict[str, list[logging.Handler]]:
    # Only ours: pytest itself puts handlers on loggers that don't propagate.
    return {name: [item for item in logging.getLogger(name).handlers if isinstance(item, Bridge)] for name in BRIDGED}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Whatever a test sets up is taken down by the test itself: this looks whether it was."""
    levels = {name: logging.getLogger(name).level for name in BRIDGED}
    yield
    logger.remove()
    assert not any(bridges().values())
    assert {name: logging.getLogger(name).level for name in BRIDGED} == levels
