"""What a flow needs: held awake while it is awake itself (and a while longer), and woken before it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flow_manager.contract.models import Dependency
from flow_manager.errors import DependencyFailed, FlowManagerError, StartFailed
from flow_manager.idle.attempt import Attempt
from flow_manager.idle.dependencies import find_cycle, in_words
from flow_manager.idle.wheel import NEVER

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher

# Each wake keeps its own time; should one fail to, whoever needs it waits so many seconds more than that could take.
GUARD = 5.0


def direct(watcher: Watcher) -> list[Dependency]:
    return list(watcher.policy.depends_on) if watcher.policy is not None else []


def hold(watcher: Watcher) -> None:
    """Lease everything that it needs awake, and let go of what it doesn't need any more."""
    wanted: dict[str, Watcher] = {}
    for dependency in direct(watcher):
        found = watcher.keeper.meant(watcher, dependency.container)
        if found is not None and found is not watcher and dependency.condition != "completed":
            wanted[found.id] = found
    held = watcher.needs or {}
    for flow_id in [flow_id for flow_id in held if flow_id not in wanted]:
        held.pop(flow_id).release()
    for flow_id, needed in wanted.items():
        # One that was deleted and made anew under the same id has other leases.
        if flow_id not in held:
            held[flow_id] = needed.use("dependent", watcher.name)
    watcher.needs = held or None
    watcher.linger_at = NEVER


def let_go(watcher: Watcher) -> None:
    held, watcher.needs = watcher.needs, None
    watcher.linger_at = NEVER
    for lease in (held or {}).values():
        lease.release()


def begin_all(watcher: Watcher) -> None:
    """It runs already, others started it: what it needs is woken, but nobody waits for that."""
    for dependency in direct(watcher):
        found = watcher.keeper.meant(watcher, dependency.container)
        if found is None or found.state == "ready" or completed(found):
            continue
        try:
            found.begin(f"{watcher.name} needs it", person=False, for_dependent=True)
        except FlowManagerError as error:
            watcher.keeper.core.log.log_debug("a dependency is not woken", container=found.id, reason=error.message)


async def wake_all(watcher: Watcher, attempt: Attempt) -> None:
    """Each in its turn. :raises DependencyFailed:"""
    node = watcher.keeper.node(watcher.id)
    if node is not None and (cycle := find_cycle(node, watcher.keeper.resolve)) is not None:
        path = in_words(cycle)
        raise DependencyFailed(f"its dependencies go in a circle: {path}", dependency=cycle[-1].name, reason=path)
    for dependency in direct(watcher):
        await _wake(watcher, attempt, dependency)


async def _wake(watcher: Watcher, attempt: Attempt, dependency: Dependency) -> None:
    needed = watcher.keeper.meant(watcher, dependency.container)
    if needed is None:
        raise _failed(dependency.container, "there is no such flow", None)
    if _met(needed, dependency):
        return
    watcher.waits_for(f"{needed.name} to be {dependency.condition}")
    watcher.history.add("waking_dep", f"waking {needed.name}, which {watcher.name} needs {dependency.condition}")
    # Also one that only has to end: it must not be put to sleep before it has.
    lease = needed.use("dependent", watcher.name)
    try:
        async with asyncio.timeout(needed.keeper.budget(needed) + GUARD):
            await _until_met(needed, dependency, person=attempt.person, reason=f"{watcher.name} needs it")
    except TimeoutError:
        raise _failed(needed.name, f"not {dependency.condition} in time", None) from None
    except FlowManagerError as error:
        raise _failed(needed.name, error.message, error) from None
    finally:
        lease.release()
    watcher.history.add("dep_ready", f"{needed.name} is {dependency.condition}")
    watcher.waits_for(None)


async def _until_met(needed: Watcher, dependency: Dependency, *, person: bool, reason: str) -> None:
    if dependency.condition == "healthy":
        await needed.wake(reason=reason, by_request=not person, for_dependent=True)
        return
    attempt = None if needed.state == "ready" else needed.begin(reason, person=person, for_dependent=True)
    if dependency.condition == "started":
        await needed.until(lambda: needed.up or attempt is None or attempt.done)
        if not needed.up and attempt is not None:
            await asyncio.shield(attempt.outcome)
        return
    await needed.until(lambda: _over(needed))
    if not completed(needed):
        observation = needed.entry.observation
        code = observation.exit_code if observation is not None else None
        raise needed.failure or StartFailed("it did not end with exit code 0", exit_code=code)


def _met(needed: Watcher, dependency: Dependency) -> bool:
    if dependency.condition == "completed":
        return completed(needed)
    if dependency.condition == "started":
        return needed.up and needed.state in ("starting", "ready")
    return needed.state == "ready"


def completed(watcher: Watcher) -> bool:
    """It ran, and ended with exit code 0: that counts once and for all."""
    seen = watcher.entry.observation
    return seen is not None and seen.state == "exited" and seen.exit_code == 0 and seen.started_at is not None


def _over(watcher: Watcher) -> bool:
    return completed(watcher) or (watcher.state in ("napping", "error") and watcher.attempt is None)


def _failed(name: str, reason: str, error: FlowManagerError | None) -> DependencyFailed:
    details = error.details if error is not None else {}
    return DependencyFailed(
        f"its dependency {name} is not there: {reason}",
        dependency=name,
        reason=reason,
        code=details.get("code", error.code if error is not None else None),
        exit_code=details.get("exit_code"),
        retry_after=details.get("retry_after"),
    )
