"""Is a ready flow still alive? Asked every so often, of those alone whose policy names a probe; health and ends are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.errors import StartFailed
from flow_manager.idle.states import Event
from flow_manager.idle.waking import probe_target
from flow_manager.idle.wheel import NEVER

if TYPE_CHECKING:
    from flow_manager.idle.watcher import Watcher


def schedule(watcher: Watcher) -> None:
    """The first probe of this run, or none."""
    policy = watcher.policy
    named = policy is not None and policy.ready is not None and (policy.ready.http or policy.ready.tcp)
    watcher.probe_failures = 0
    if named and watcher.state == "ready":
        watcher.probe_at = watcher.keeper.clock.monotonic() + watcher.keeper.settings.liveness_interval
    else:
        watcher.probe_at = NEVER
    watcher.rearm()


def begin(watcher: Watcher) -> None:
    watcher.probe_at = NEVER
    watcher.keeper.spawn(_probe(watcher), f"alive-{watcher.id}")


async def _probe(watcher: Watcher) -> None:
    keeper, run = watcher.keeper, watcher.run

    def over() -> bool:
        return watcher.run != run or watcher.state != "ready"

    alive = await keeper.prober.alive(probe_target(watcher, over))
    if over():
        return
    watcher.probe_failures = 0 if alive else watcher.probe_failures + 1
    if watcher.probe_failures >= keeper.settings.liveness_failures:
        message = f"it did not answer {watcher.probe_failures} probes in a row"
        watcher.fail(StartFailed(message, reason="liveness"), Event.UNHEALTHY)
        return
    watcher.probe_at = keeper.clock.monotonic() + keeper.settings.liveness_interval
    watcher.rearm()
