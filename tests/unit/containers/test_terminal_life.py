"""How long a terminal that nobody looks at stays open, and how long its end is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow_manager.containers.terminals import LINGER, Terminals
from flow_manager.contract import requests
from flow_manager.contract.inside import AttachContainer
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import InvalidRequest
from flow_manager.testing import eventually


class Looking:
    def output(self, terminal_id: str, offset: int, data: bytes) -> None: ...

    def closed(self, terminal_id: str, exit_code: int | None) -> None: ...

    async def room(self) -> None: ...


@asynccontextmanager
async def terminals(house: Any, **times: float) -> AsyncIterator[Terminals]:
    request = requests.CreateContainer.model_validate(
        {"image": "memory", "command": ["sleep"], "name": "web", "start": True}
    )
    await house.manager.create_container(LOCAL, request)
    made = Terminals(house.core, **times)
    try:
        yield made
    finally:
        await made.close()


def attach(**more: Any) -> AttachContainer:
    return AttachContainer(container_id="web", **more)


async def test_one_that_nobody_looks_at_is_closed_after_its_time_and_forgotten_a_while_later(house: Any) -> None:
    async with terminals(house, linger=0.05, afterlife=0.05) as all_of_them:
        viewer = Looking()
        opened = await all_of_them.attach(LOCAL, attach(), viewer)
        all_of_them.detach(LOCAL, opened.terminal_id, viewer)
        await eventually(lambda: len(all_of_them) == 0)
        await house.told("terminal_opened", "terminal_closed")
        await eventually(lambda: not all_of_them._held)
        with pytest.raises(InvalidRequest):
            await all_of_them.attach(LOCAL, attach(terminal_id=opened.terminal_id), viewer)


async def test_one_that_is_joined_again_in_time_stays_open(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer is let go of: nothing closes it behind its new viewer's back."""
    async with terminals(house) as all_of_them:
        loop, armed = asyncio.get_running_loop(), []
        real = loop.call_later

        def call_later(delay: float, work: Callable[..., Any], *arguments: Any, **more: Any) -> asyncio.TimerHandle:
            timer = real(delay, work, *arguments, **more)
            if delay == LINGER:
                armed.append(timer)
            return timer

        monkeypatch.setattr(loop, "call_later", call_later)
        first, second = Looking(), Looking()
        opened = await all_of_them.attach(LOCAL, attach(), first)
        assert armed == []
        all_of_them.leave(first)
        (timer,) = armed
        assert not timer.cancelled()
        await all_of_them.attach(LOCAL, attach(terminal_id=opened.terminal_id), second)
        assert timer.cancelled()
        assert len(all_of_them) == 1


async def test_of_those_that_have_ended_the_last_ones_are_remembered_so_many_as_may_be_open(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps its last output: ended ones that count for nothing are gigabytes within their minute."""
    monkeypatch.setattr("flow_manager.containers.terminals.MAX_OF_PRINCIPAL", 3)
    async with terminals(house) as all_of_them:
        viewer = Looking()
        opened = []
        for _ in range(6):
            opened.append((await all_of_them.attach(LOCAL, attach(), viewer)).terminal_id)
            await all_of_them.write(LOCAL, opened[-1], b"exit\n")
            await eventually(lambda: len(all_of_them) == 0)
        await eventually(lambda: list(all_of_them._held) == opened[-3:])
        await house.told("terminal_closed")
