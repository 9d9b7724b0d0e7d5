"""One attempt to wake a flow, and whoever waits for its outcome."""

from __future__ import annotations

import asyncio
from typing import Literal

from flow_manager.errors import FlowManagerError

Phase = Literal["stop", "dependencies", "start", "readiness"]


class Attempt:
    """`outcome` ends with None or the error that every waiter gets. `person`: one asked for it, which lifts a stop.

    `observed`: it was started by others, and only its readiness is waited for. `woke`: this attempt started it.
    `refused`: it came to nothing because somebody had stopped the flow. `steps` is how long each took, in seconds. `held` counts
    the requests that wait for it; `round` how often it was begun, since a sleep under those who wait begins it anew.
    """

    __slots__ = (
        "began",
        "for_dependent",
        "held",
        "observed",
        "outcome",
        "person",
        "phase",
        "reason",
        "refused",
        "round",
        "steps",
        "task",
        "woke",
    )

    def __init__(self, reason: str, began: float, *, person: bool, for_dependent: bool, observed: bool) -> None:
        self.reason = reason
        self.began = began
        self.person = person
        self.for_dependent = for_dependent
        self.observed = observed
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.phase: Phase = "dependencies"
        self.refused = False
        self.held = 0
        self.round = 0
        self.steps: dict[str, float] = {}
        self.task: asyncio.Task[None] | None = None
        self.woke = False

    @property
    def done(self) -> bool:
        return self.outcome.done()

    def succeed(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(None)

    def end(self, error: FlowManagerError) -> None:
        """Tell everybody who waits, at once; what is under way for it is ended, too."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # looked at: nobody may be waiting
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
