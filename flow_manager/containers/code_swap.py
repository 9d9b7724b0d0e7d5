"""What an update does to one flow: the code is swapped while it is stopped, and taken back when it does not work.

The swap holds the flow's lock; the wait for readiness doesn't, so that a stop or a kill can end it. Until it is over, the
record's phase is `updating`, and a manager that starts with such a record takes the update back (`recover_update`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry, packed
from flow_manager.containers.ready import stays_up, wait_ready
from flow_manager.containers.spec import spec_of
from flow_manager.containers.start import start_now
from flow_manager.containers.stop import stop_now
from flow_manager.contract.principal import Principal
from flow_manager.errors import ContainerNotFound, ContainerStopped, FlowManagerError
from flow_manager.runtimes.base import FlowSpec

UPDATING = "updating"
# A program that is ready at once, because nothing says what readiness is, and ends right away has not been updated well.
SETTLE = 1.0


@dataclass(slots=True)
class Change:
    """One update. `code_path` None: a rollback. `before` and `after` are what a flow whose code is not mounted is made of:
    its container has to be made anew."""

    principal: Principal
    code_path: str | None
    staged: Path
    before: FlowSpec | None = None
    after: FlowSpec | None = None
    ran: bool = False
    swapped: bool = False
    failed: FlowManagerError | None = None

    @property
    def rollback(self) -> bool:
        return self.code_path is None


async def apply(core: Core, entry: FlowEntry, change: Change) -> None:
    """Leaves in `change.failed` why the old code is back."""
    key = object()  # never joined: identical ones were joined already
    await core.operate(entry, "update", key, change.principal, lambda: _swap(core, entry, change))
    if change.failed is not None:
        return
    if change.ran:
        try:
            await _works(core, entry)
        except FlowManagerError as error:
            core.still_there(entry)
            change.failed = error
            await core.operate(entry, "update", object(), change.principal, lambda: _take_back(core, entry, change))
            return
    await _keep(core, entry, change)


async def _swap(core: Core, entry: FlowEntry, change: Change) -> None:
    """Under the lock. What fails here is taken back here, too."""
    had_code = entry.config.code_path is not None
    if not (had_code and entry.runtime.capabilities.mounts):
        # Made before anything is stopped: what settings don't allow any more is refused while nothing has happened.
        change.before, change.after = spec_of(core, entry, code=had_code), spec_of(core, entry, code=True)
    change.ran = entry.observation is not None and entry.observation.state in ("running", "restarting")
    await core.record(entry, phase=UPDATING)
    try:
        if entry.running:
            await stop_now(core, entry, signal=None, timeout=None)
        await core.code.swap(entry.id, change.staged)
        change.swapped = True
        if change.after is not None:
            await _make_anew(core, entry, change.after)
        if change.ran:
            await start_now(core, entry)
    except FlowManagerError as error:
        change.failed = error
        await _take_back(core, entry, change)
    except BaseException:
        # A kill or a forced delete goes first, or the service ends: the old code is put back, and nothing is started.
        change.ran = False
        await core.carried.through(_take_back(core, entry, change))
        raise


async def _take_back(core: Core, entry: FlowEntry, change: Change) -> None:
    """Under the lock: what was there before, and running if it ran and nobody has stopped it since."""
    if change.swapped:
        if entry.running:
            await stop_now(core, entry, signal=None, timeout=None)
        await _undo(core, entry, change.before, swapped=True)
    await core.record(entry, phase="created")
    if change.ran and not entry.running and entry.record.desired == "running":
        await start_now(core, entry)


async def _keep(core: Core, entry: FlowEntry, change: Change) -> None:
    await core.code.confirm(entry.id)
    if core.table.get(entry.id) is not entry:
        await core.code.remove(entry.id)  # deleted meanwhile
        core.still_there(entry)
    config = entry.config
    if change.code_path is not None:
        config = config.model_copy(update={"code_path": change.code_path})
    entry.config = config
    await core.record(entry, phase="created", config=packed(config))


async def _works(core: Core, entry: FlowEntry) -> None:
    """Return when it is ready and stays so, or when it isn't up for another reason than the new code.

    :raises FlowManagerError: it isn't ready, or ended with an error.
    """
    try:
        await wait_ready(core, entry)
        await stays_up(core, entry, SETTLE)
    except ContainerStopped as ended:
        # Somebody stopped it, or it has done what it does.
        if entry.record.desired == "running" and ended.details.get("exit_code"):
            raise


async def _undo(core: Core, entry: FlowEntry, before: FlowSpec | None, *, swapped: bool) -> None:
    """Put the old code back, and with `before` the old container. `swapped`: there is something to put back."""
    # A container that takes its code in is made of what is there then. Of a flow that had none, the folder goes last: as long
    # as it is there, a manager that starts again knows that this is to be done.
    folder_first = before is None or before.code_folder is not None
    if swapped and folder_first:
        await core.code.undo(entry.id)
    if before is not None:
        await _make_anew(core, entry, before)
    if swapped and not folder_first:
        await core.code.undo(entry.id)


async def _make_anew(core: Core, entry: FlowEntry, spec: FlowSpec) -> None:
    """A mount can't be added to a container, nor its file system be given other code whole or not at all: another takes its
    place under the same flow's id."""
    await entry.runtime.remove(entry.id, force=True)
    observation = await entry.runtime.create(spec)
    core.observe(entry, observation)
    await core.record(entry, runtime_id=observation.runtime_id)


async def recover_update(core: Core, entry: FlowEntry) -> None:
    """At start, for a record in the phase `updating`: the manager ended in the middle; what was there before comes back.

    :raises FlowManagerError: not now; the next start tries again.
    """
    swapped = core.code.unfinished(entry.id)
    had_code = entry.config.code_path is not None
    new = not had_code and core.code.folder(entry.id).exists()
    # Where code is copied in, nothing here tells which one the container has, nor whether there is one.
    anew = new or not entry.runtime.capabilities.mounts
    if swapped or anew:
        try:
            await entry.runtime.stop(entry.id)
        except ContainerNotFound:
            # Killed between the removal of one container and the making of the next: that is made now.
            if not anew:
                raise
    await _undo(core, entry, spec_of(core, entry, code=had_code) if anew else None, swapped=swapped or new)
    await core.record(entry, phase="created")
    if entry.record.desired == "running" and entry.config.idle is None:
        await start_now(core, entry)  # one with a policy wakes on demand
    core.activity.log_operation_recovered(entry.ref, "update", outcome="undone")
