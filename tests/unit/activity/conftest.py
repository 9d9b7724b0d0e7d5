from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flow_manager.activity.stream import ActivityStream
from flow_manager.errors import SystemFailure
from flow_manager.settings.models import ActivitySettings
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.store.sql import SqlStore
from flow_manager.util.clock import SystemClock

Make = Callable[..., ActivityStream]


def make_draft(**changes: Any) -> ActivityDraft:
    values: dict[str, Any] = {
        "type": "container_started",
        "tenant": "default",
        "container_id": "aaaaaaaaaaaa",
        "name": "reports",
        "actor": "alice",
        "message": "alice started flow *reports*",
        "details": {},
        "timestamp": datetime(2026, 1, 19, 10, 30, tzinfo=UTC),
    }
    return ActivityDraft(**{**values, **changes})


class Troubled:
    """A real activity store that fails when it is told to, and can be held."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.failure: Exception | None = None
        self.failed = asyncio.Event()
        self.may_append = asyncio.Event()
        self.may_append.set()
        self.appending = asyncio.Event()
        self.batches: list[int] = []

    @property
    def stream(self) -> str:
        name: str = self.inner.stream
        return name

    async def append(self, drafts: Sequence[ActivityDraft]) -> list[StoredActivity]:
        self.appending.set()
        await self.may_append.wait()
        if self.failure is not None:
            self.failed.set()
            failure = self.failure
            if not isinstance(failure, SystemFailure):
                self.failure = None  # a fault in these entries, not of the store
            raise failure
        self.batches.append(len(drafts))
        stored: list[StoredActivity] = await self.inner.append(drafts)
        return stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def draft() -> Callable[..., ActivityDraft]:
    return make_draft


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Troubled]:
    async with SqlStore(tmp_path / "flow.db") as opened:
        yield Troubled(opened.activity)


@pytest.fixture
async def make_stream(store: Troubled) -> AsyncIterator[Make]:
    """A stream that isn't open yet; closed at the end."""
    made: list[ActivityStream] = []

    def make(settings: ActivitySettings | None = None, **options: Any) -> ActivityStream:
        options = {"clock": SystemClock(), "first_retry": 0.01, **options}
        made.append(ActivityStream(store, settings or ActivitySettings(), **options))
        return made[-1]

    yield make
    for stream in made:
        await stream.close()


@pytest.fixture
async def stream(make_stream: Make) -> ActivityStream:
    opened = make_stream()
    await opened.open()
    return opened
