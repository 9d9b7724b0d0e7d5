"""Waiting, outside the lock, for what a flow becomes after its start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import ContainerStatus
from flow_manager.errors import ContainerStopped, OperationTimeout, StartFailed

# How long `wait: "ready"` waits for a flow without an idle policy (the policy's wake_timeout has the same default).
READY_TIMEOUT = 180.0
# A flow that is deleted says nothing more: looked for this often, in seconds.
LOOK_EVERY = 1.0


@contextmanager
def changes(core: Core, entry: FlowEntry) -> Iterator[asyncio.Event]:
    """Set at each change of its status."""
    changed = asyncio.Event()

    def on_status(_tenant: str, status: ContainerStatus) -> None:
        if status.id == entry.id:
            changed.set()

    core.status_listeners.append(on_status)
    try:
        yield changed
    finally:
        core.status_listeners.remove(on_status)


async def next_change(core: Core, entry: FlowEntry, changed: asyncio.Event) -> None:
    """Return at the next change, or after a while. :raises ContainerNotFound: it was deleted."""
    try:
        async with asyncio.timeout(LOOK_EVERY):
            await changed.wait()
    except TimeoutError:
        core.still_there(entry)


async def wait_ready(core: Core, entry: FlowEntry) -> None:
    """Wait until the flow is ready: its policy's checks, else its image's, else its port, else that it runs.

    :raises ContainerStopped: when it ends meanwhile. :raises StartFailed: when its watcher gives it up, with the reason.
    :raises OperationTimeout: naming what it waited for. :raises ContainerNotFound: it was deleted.
    """
    limit = entry.config.idle.wake_timeout if entry.config.idle else READY_TIMEOUT
    deadline = core.clock.monotonic() + limit
    with changes(core, entry) as changed:
        while True:
            changed.clear()
            status = core.status(entry)
            if status.state not in ("running", "restarting"):
                raise ContainerStopped(f"the flow is {status.state}", state=status.state, exit_code=status.exit_code)
            if status.flow_state == "ready":
                return
            if status.flow_state == "error":
                reason = status.error or "it never became ready"
                raise StartFailed(f"the flow is not ready: {reason}", reason=reason, exit_code=status.exit_code)
            if core.clock.monotonic() >= deadline:
                raise OperationTimeout(
                    f"not ready after {limit:g} s", operation="start", waited_for="readiness", timeout=limit
                )
            await next_change(core, entry, changed)


async def stays_up(core: Core, entry: FlowEntry, seconds: float) -> None:
    """Return when it has run on for so long.

    :raises ContainerStopped: it ended, or fell asleep. :raises StartFailed: it went wrong. :raises ContainerNotFound:
    """
    with changes(core, entry) as changed:
        end = core.clock.monotonic() + seconds
        while (left := end - core.clock.monotonic()) > 0:
            changed.clear()
            status = core.status(entry)
            if status.state not in ("running", "restarting"):
                raise ContainerStopped(f"the flow is {status.state}", state=status.state, exit_code=status.exit_code)
            if status.flow_state == "error":
                reason = status.error or "it is not ready any more"
                raise StartFailed(f"the flow is not ready: {reason}", reason=reason, exit_code=status.exit_code)
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                core.still_there(entry)
