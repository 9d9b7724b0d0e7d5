"""Who asks that a flow wakes, and whether they may: traffic starts neither what somebody stopped nor what just failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flow_manager.errors import Conflict, ContainerNotFound, FlowManagerError, NotAllowed, ShuttingDown
from flow_manager.idle import waking
from flow_manager.idle.attempt import Attempt

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher


async def wake(watcher: Watcher, reason: str, *, by_request: bool, for_dependent: bool) -> None:
    """:raises: as `Watcher.wake`."""
    while watcher.state != "ready":
        try:
            await _wait(watcher, reason, by_request=by_request, for_dependent=for_dependent)
            return
        except FlowManagerError:
            if (updating := watcher.entry.updating) is None:
                raise
        # Its code is being changed: it comes back with the new one, or with the old.
        await updating.wait()


async def _wait(watcher: Watcher, reason: str, *, by_request: bool, for_dependent: bool) -> None:
    while True:
        attempt = begin(watcher, reason, person=not by_request, for_dependent=for_dependent)
        attempt.held += by_request
        try:
            await asyncio.shield(attempt.outcome)
            return
        except Conflict:
            # Traffic's attempt was refused for a stop that this caller is entitled to lift.
            if by_request or not attempt.refused:
                raise
        finally:
            attempt.held -= by_request
        if watcher.state == "ready":
            return


def begin(watcher: Watcher, reason: str, *, person: bool, for_dependent: bool = False) -> Attempt:
    """The attempt under way, or a new one. :raises: what `wake` raises at once."""
    watcher.keeper.core.refuse_when_closing()
    if watcher.keeper.closing:
        raise ShuttingDown("the service is about to end")
    if watcher.ended:
        raise ContainerNotFound(watcher.id, kind=watcher.entry.runtime.kind)
    if watcher.attempt is not None:
        watcher.attempt.person = watcher.attempt.person or person
        return watcher.attempt
    if not person:
        refuse_traffic(watcher, for_dependent=for_dependent)
    return waking.begin(watcher, reason, person=person, for_dependent=for_dependent)


def refuse_traffic(watcher: Watcher, *, for_dependent: bool) -> None:
    """:raises Conflict, NotAllowed: traffic must not wake it. :raises ContainerNotFound: somebody removed its container.
    :raises FlowManagerError: the last failure, too fresh."""
    if watcher.up and watcher.state != "error":
        return
    if watcher.entry.lost and watcher.desired == "stopped":
        raise ContainerNotFound(watcher.id, kind=watcher.entry.runtime.kind)  # no start would help
    if watcher.desired == "stopped" and not watcher.up and not watcher.never_ran:
        raise Conflict("somebody stopped this flow: start it first", desired="stopped", operation="stop")
    if watcher.policy is None and not for_dependent and not watcher.up:
        raise NotAllowed("this flow has no idle policy: traffic doesn't wake it, start it first", setting="idle")
    if (failure := held_back(watcher)) is not None:
        raise failure


def held_back(watcher: Watcher) -> FlowManagerError | None:
    """Why it failed last, with `details.retry_after`, while that is too fresh for another start; else None."""
    if watcher.retry_in is None or watcher.failure is None:
        return None
    watcher.failure.details["retry_after"] = watcher.retry_after()
    return watcher.failure.with_traceback(None)
