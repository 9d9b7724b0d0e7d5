"""What the manager's operations share: the flows, their locks, and the ways to record and tell what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from flow_manager.activity.log import UserActivityLogger
from flow_manager.activity.redact import Masker
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.containers.adoptions import Adoptions
from flow_manager.containers.availability import Availability
from flow_manager.containers.channels import remote_variables, socket_path
from flow_manager.containers.code import CodeStore
from flow_manager.containers.entry import Candidate, FlowEntry
from flow_manager.containers.execs import Execs
from flow_manager.containers.locks import FlowLocks
from flow_manager.containers.observer import FlowObserver, NoObserver
from flow_manager.containers.operation import run_operation
from flow_manager.containers.policy import Policy
from flow_manager.containers.status import flow_state_of, info_of, status_of, usage_without_figures
from flow_manager.containers.table import FlowTable
from flow_manager.containers.use import Uses
from flow_manager.contract.models import ContainerConfig, ContainerInfo, ContainerStatus, IdlePolicy, ResourceUsage
from flow_manager.contract.principal import Principal
from flow_manager.errors import ContainerNotFound, FlowManagerError, InvalidRequest, ShuttingDown
from flow_manager.observability.system_log import SystemLogger
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.settings.models import Settings
from flow_manager.store.base import FlowRecord, FlowStore, StoredActivity
from flow_manager.util.carried import Carried
from flow_manager.util.clock import Clock

if TYPE_CHECKING:
    from flow_manager.containers.outbox import Outbox
    from flow_manager.containers.terminals import Terminals

T = TypeVar("T")
# As many as fit a page without scrolling.
LAST_LINES = 20
# A reply waits this long, in seconds, for its activity entry to be on disk.
NOTE_TIMEOUT = 2.0
# A deleted flow's secret values are masked for this many seconds more.
SECRETS_LINGER = 60.0
StatusListener = Callable[[str, ContainerStatus], None]


@dataclass(slots=True, eq=False)
class Core:
    """Owned by ContainerManager; its modules act on it."""

    settings: Settings
    runtimes: Mapping[str, Runtime]
    default_runtime: str
    store: FlowStore
    channel: SocketCommunicationHandler
    activity: UserActivityLogger
    masker: Masker
    log: SystemLogger
    clock: Clock
    policy: Policy
    code: CodeStore
    table: FlowTable
    locks: FlowLocks = field(default_factory=FlowLocks)
    availability: Availability = field(default_factory=Availability)
    # Creates that could not be undone because the runtime was away; tried again when it is back.
    unfinished: dict[str, FlowEntry] = field(default_factory=dict)
    status_listeners: list[StatusListener] = field(default_factory=list)
    # What was measured last of a flow; from memory. Set by the meter.
    usage_of: Callable[[FlowEntry], ResourceUsage] = usage_without_figures
    # Told of each flow that is gone for good.
    forget_listeners: list[Callable[[FlowEntry], None]] = field(default_factory=list)
    # Set by the reconciler: look at a flow again after an operation during which events came.
    look_again: Callable[[FlowEntry], None] = lambda _entry: None
    observer: FlowObserver = field(default_factory=NoObserver)
    # Judges an idle policy before a flow gets it; the watchers' registry sets it. Raises InvalidRequest or Unsupported.
    check_policy: Callable[[Candidate, IdlePolicy | None], None] = lambda *_: None
    # Set by whoever opens it: without one, a message for a flow that is away is refused.
    outbox: Outbox | None = None
    # Set by whoever opens them.
    terminals: Terminals | None = None
    adoptions: Adoptions = field(default_factory=Adoptions)
    # Commands and terminals keep a flow awake, and wake it.
    uses: Uses = field(default_factory=Uses)
    # A container of ours that is younger, and that nobody knows, is what an aborted create has left.
    started_at: datetime | None = None
    execs: Execs = field(default_factory=Execs)
    # Clean-ups that go on when whoever waits for them is cancelled once more.
    carried: Carried = field(default_factory=Carried)
    closing: bool = False
    _told: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    # --- finding ------------------------------------------------------------------------------------------------------

    def runtime(self, name: str | None) -> Runtime:
        """:raises InvalidRequest: for a runtime that isn't configured, naming those that are."""
        wanted = name or self.default_runtime
        try:
            return self.runtimes[wanted]
        except KeyError:
            reason = f"no runtime '{wanted[:64]}' here; there are: {', '.join(sorted(self.runtimes))}"
            raise InvalidRequest(f"runtime: {reason}", fields=[{"path": "runtime", "reason": reason}]) from None

    def still_there(self, entry: FlowEntry) -> None:
        """:raises ContainerNotFound: when it was deleted while the caller waited for its turn."""
        if self.table.get(entry.id) is not entry:
            raise ContainerNotFound(entry.id, kind=entry.runtime.kind)

    def meant(self, entry: FlowEntry, ref: str) -> FlowEntry | None:
        """The flow that this one calls `ref`, in its dependencies."""
        labels = entry.config.labels if entry.record.adopted else {}
        return self.table.meant(entry.record.tenant, entry.record.runtime, ref, labels)

    # --- views --------------------------------------------------------------------------------------------------------

    def info(self, entry: FlowEntry) -> ContainerInfo:
        return info_of(entry, socket_path(self.channel, entry))

    def status(self, entry: FlowEntry) -> ContainerStatus:
        return status_of(
            entry,
            now=self.clock.now(),
            flow_state=self.observer.flow_state(entry) or flow_state_of(entry),
            connected=self.channel.is_socket_connected(entry.id),
            last_communication=self.channel.last_communication(entry.id),
            usage=self.usage_of(entry),
        )

    def tell(self, entry: FlowEntry) -> None:
        """Send `container_status` if anything but the uptime changed since it was last sent."""
        if not entry.visible:
            return
        status = self.status(entry)
        essence = (
            status.state,
            status.health,
            status.flow_state,
            status.desired,
            status.socket_connected,
            status.exit_code,
            status.error,
            status.stale,
        )
        if self._told.get(entry.id) == essence:
            return
        before = self._told.get(entry.id)
        self._told[entry.id] = essence
        if before is not None and before[0] != status.state:
            self.log.log_state_change(entry.id, before=before[0], after=status.state)
        for listener in self.status_listeners:
            listener(entry.record.tenant, status)

    async def last_lines(self, flow_id: str) -> list[str]:
        """A flow's last log lines, secrets masked: for people who want to know why it failed. None where there are none."""
        entry = self.table.get(flow_id)
        if entry is None:
            return []
        try:
            return [self.masker.mask_text(line.text) for line in await entry.runtime.logs(entry.id, tail=LAST_LINES)]
        except FlowManagerError:
            return []

    # --- changes ------------------------------------------------------------------------------------------------------

    def observe(self, entry: FlowEntry, observation: Observation, cause: str | None = None) -> None:
        """Take in what the runtime said; `cause` is why it ended, where an event told."""
        before, entry.observation = entry.observation, observation
        entry.stale = False
        entry.lost = False
        self.observer.flow_observed(entry, before, observation, cause)

    def explain_end(self, entry: FlowEntry) -> None:
        """It does not run, and an event said why, which nobody has told its watcher: somebody outside stopped it."""
        entry.stopped_outside = False
        self.observer.end_explained(entry)

    async def noted(self, storing: asyncio.Future[StoredActivity]) -> None:
        """Wait until an entry is stored, so that whoever got the reply finds it; a full disk must not undo what is done."""
        try:
            await asyncio.wait_for(asyncio.shield(storing), NOTE_TIMEOUT)
        except (TimeoutError, FlowManagerError) as error:
            self.log.log_debug("an activity entry is not stored yet", reason=str(error))

    async def record(self, entry: FlowEntry, **changes: Any) -> None:
        """Change the flow's record, in the store first."""
        changed: FlowRecord = replace(entry.record, **changes)
        if changed != entry.record:
            await self.store.save(changed)
            entry.record = changed

    async def used(self, times: Mapping[str, datetime]) -> None:
        """Store when flows were last used."""
        await self.store.used(times)
        for flow_id, at in times.items():
            if (entry := self.table.get(flow_id)) is not None:
                entry.record = replace(entry.record, last_used_at=at)

    async def while_recording(self, entry: FlowEntry, doing: Coroutine[Any, Any, T], **changes: Any) -> T:
        """Do something slow and change the record meanwhile: an engine takes hundreds of milliseconds, the store one.

        The first failure of either is raised, after the other was ended.
        """
        try:
            async with asyncio.TaskGroup() as group:
                done = group.create_task(doing)
                group.create_task(self.record(entry, **changes))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return done.result()

    def forget(self, entry: FlowEntry) -> None:
        self.table.discard(entry)
        self.observer.flow_removed(entry)
        if self.outbox is not None:
            self.outbox.forget(entry.id)
        if self.terminals is not None:
            self.terminals.flow_gone(entry.id)
        self._told.pop(entry.id, None)
        for listener in self.forget_listeners:
            listener(entry)
        # Masked a while longer: the lines that tell of the end may still hold its secrets.
        loop = asyncio.get_running_loop()
        for secrets in (dict(entry.config.environment), remote_variables(self.channel, entry)):
            loop.call_later(SECRETS_LINGER, self.masker.remove_environment, secrets)

    def keep_secrets(self, entry: FlowEntry, config: ContainerConfig) -> None:
        """Mask what looks secret in this flow's environment, from now on and wherever its values turn up."""
        self.masker.add_environment(config.environment)
        self.masker.add_environment(remote_variables(self.channel, entry))
        entry.masked_environment = self.masker.mask_environment(config.environment)

    # --- operations ---------------------------------------------------------------------------------------------------

    async def change(
        self,
        entry: FlowEntry,
        name: str,
        key: Any,
        principal: Principal,
        body: Callable[[], Awaitable[Any]],
        *,
        preempt: bool = False,
    ) -> ContainerStatus:
        """As `operate`; gives the status that it left behind, before the next operation could change it."""
        _result, status = await run_operation(self, entry, name, key, principal, body, preempt=preempt)
        return status

    async def operate(
        self,
        entry: FlowEntry,
        name: str,
        key: Any,
        principal: Principal,
        body: Callable[[], Awaitable[T]],
        *,
        preempt: bool = False,
    ) -> T:
        """Run one operation under the flow's lock, logged and timed; a failure is told to people too.

        :raises ShuttingDown: when the service is about to end.
        :raises RuntimeUnavailable: as soon as the flow's runtime is known to be away.
        """
        result, _status = await run_operation(self, entry, name, key, principal, body, preempt=preempt)
        return result

    def refuse_when_closing(self) -> None:
        if self.closing:
            raise ShuttingDown("the service is about to end")

    def now(self) -> datetime:
        return self.clock.now()
