"""The steps of a wake, for a person who waits for it at a terminal. On standard error: what is printed is the result alone."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from flow_manager.cli.output import complain

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient
    from flow_manager.contract.wake import WakeEvent

# Told by the verb itself, as its result or its complaint.
_LAST = ("ready", "error")


def at_terminal() -> bool:
    return sys.stderr.isatty()


def show_step(step: WakeEvent) -> None:
    if step.type not in _LAST:
        complain(f"  {step.message}")


@asynccontextmanager
async def steps_shown(client: FlowManagerClient, flow: str, *, shown: bool) -> AsyncIterator[None]:
    """Follow the flow's wakes meanwhile, when they are to be `shown`; those steps of one under way first."""
    from flow_manager.client import ServiceRefused, Unreachable

    followed = False
    if shown:
        # Whoever may not follow it, or names a flow that isn't there, hears so by the verb.
        with suppress(ServiceRefused):
            history = (await client.subscribe_wake_events(flow)).history
            followed = True
            if history and history[-1].type not in _LAST:
                for step in history:
                    show_step(step)
    try:
        yield
    finally:
        if followed:
            with suppress(ServiceRefused, Unreachable):
                await client.unsubscribe_wake_events(flow)
