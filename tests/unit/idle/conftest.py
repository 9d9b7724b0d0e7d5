from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.idle.house import IdleBuilder, IdleHouse


@pytest.fixture
async def idle_builder() -> AsyncIterator[IdleBuilder]:
    made = IdleBuilder()
    yield made
    await made.close()


@pytest.fixture
async def idle_house(idle_builder: IdleBuilder) -> AsyncIterator[IdleHouse]:
    async with idle_builder.open() as opened:
        yield opened
