from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore

AT = datetime(2026, 1, 19, 10, 30, 0, 123456, tzinfo=UTC)


def make_draft(**changes: Any) -> ActivityDraft:
    values: dict[str, Any] = {
        "type": "container_started",
        "tenant": "default",
        "container_id": "aaaaaaaaaaaa",
        "name": "reports",
        "actor": "alice",
        "message": "alice started flow *reports*",
        "details": {"n": 1},
        "timestamp": AT,
    }
    return ActivityDraft(**{**values, **changes})


@pytest.fixture
def draft() -> Callable[..., ActivityDraft]:
    return make_draft


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "flow-manager.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    async with SqlStore(path, boot="boot-1") as opened:
        yield opened
