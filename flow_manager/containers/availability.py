"""Which runtimes don't answer right now, and who must hear of it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from flow_manager.errors import RuntimeUnavailable
from flow_manager.runtimes.base import Runtime

T = TypeVar("T")
# Before a change on a runtime that was away it is asked whether it is back: the watch may not have noticed yet.
ASK_AGAIN = 2.0
# What is under way on a runtime that goes away gets this long to clean up after itself; then its caller is answered.
CLEAN_UP = 3.0


class Availability:
    """Kept by the reconciler, used by every operation."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._under_way: dict[str, set[asyncio.Future[None]]] = {}

    def away(self, runtime: str) -> bool:
        return runtime in self._reasons

    def lost(self, runtime: str, reason: str) -> bool:
        """It does not answer: what is under way there is given up. False when that was known."""
        if runtime in self._reasons:
            return False
        self._reasons[runtime] = reason
        for waiting in self._under_way.pop(runtime, set()):
            if not waiting.done():
                waiting.set_result(None)
        return True

    def back(self, runtime: str) -> bool:
        """It answers. False when that was known."""
        return self._reasons.pop(runtime, None) is not None

    async def during(self, runtime: Runtime, body: Callable[[], Awaitable[T]]) -> T:
        """Run `body`, which uses this runtime; give it up as soon as the runtime is known to be away.

        An engine that hangs would otherwise hold the flow's lock, and its callers, for each call's whole time-out.

        :raises RuntimeUnavailable:
        """
        if runtime.name in self._reasons:
            await runtime.ping(ASK_AGAIN)
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()
        self._under_way.setdefault(runtime.name, set()).add(gone)
        task = loop.create_task(_run(body))
        # Looked at: when the runtime's absence is the answer, nobody asks for what came of it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            either: set[asyncio.Future[Any]] = {task, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLEAN_UP)
                reason = self._reasons.get(runtime.name, "no answer")
                raise RuntimeUnavailable(
                    f"the runtime '{runtime.name}' does not answer: {reason}", kind=runtime.kind, reason=reason
                )
            if task.cancelled():
                # From within: something that it waited for was cancelled. Whoever waits here is not, and a cancellation that
                # nobody asked for would end their tasks without a word.
                raise RuntimeError(f"what was under way on the runtime '{runtime.name}' was cut off from within")
            return task.result()
        except asyncio.CancelledError:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            raise
        finally:
            self._under_way.get(runtime.name, set()).discard(gone)


async def _run(body: Callable[[], Awaitable[T]]) -> T:
    return await body()
