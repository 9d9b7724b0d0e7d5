"""All watchers: who is told of what happens to flows, and who answers the events that concern sleep."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flow_manager.containers.compose import project_of, service_of
from flow_manager.containers.core import Core
from flow_manager.containers.entry import Candidate, FlowEntry, packed
from flow_manager.containers.observer import NoObserver
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerStatus, FlowState, IdlePolicy
from flow_manager.contract.principal import Principal
from flow_manager.contract.wake import IdleExplanation, WakeEvent, WakeHistory
from flow_manager.errors import ContainerNotFound, FlowManagerError, InvalidRequest, Unsupported
from flow_manager.idle import outage, sleeping
from flow_manager.idle.dependencies import Node, find_cycle, in_words
from flow_manager.idle.keeper import Keeper, WaitsForReadiness
from flow_manager.idle.watcher import Watcher
from flow_manager.idle.wheel import CallLater, Wheel
from flow_manager.runtimes.base import Observation
from flow_manager.util.clock import Clock

# Seconds. After the process stood still (SIGSTOP, a suspended machine) nothing is put to sleep for so long: requests that
# came meanwhile are still unread in their sockets.
AFTER_GAP = 5.0
WakeListener = Callable[[str, WakeEvent], None]


class IdleRegistry:
    """The manager's observer. Open it before the manager, so that it hears of every flow."""

    def __init__(
        self, core: Core, *, prober: WaitsForReadiness, clock: Clock | None = None, call_later: CallLater | None = None
    ) -> None:
        self._core = core
        self._clock = clock or core.clock
        wheel = (
            Wheel(self._clock, on_gap=self._stood_still)
            if call_later is None
            else Wheel(self._clock, on_gap=self._stood_still, call_later=call_later)
        )
        self._keeper = Keeper(core, wheel, prober, self._clock)
        self._listeners: dict[tuple[str, WakeListener], Callable[[], None]] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes whenever a flow comes, goes, or changes its policy."""
        return self._generation

    async def open(self) -> None:
        core = self._core
        core.observer = self
        core.check_policy = self.check_policy
        for entry in core.table:
            if entry.visible:
                self.flow_added(entry)

    async def close(self) -> None:
        """Whoever waits gets `shutting_down`; when flows were last used is stored."""
        keeper = self._keeper
        keeper.closing = True
        for watcher in list(keeper.watchers.values()):
            if watcher.attempt is not None:
                watcher.removed()
        await keeper.end_tasks()
        keeper.wheel.close()
        try:
            await keeper.flush(everything=True)
        except FlowManagerError as error:
            # A full disk must not keep the service from ending; the last use that was stored before counts.
            self._core.log.log_notice(
                "when flows were last used could not be stored", warning=True, reason=error.message
            )
        self._listeners.clear()
        # What ends from here on ends with the service: nobody is to make a failure of it.
        self._core.observer = NoObserver()

    # --- finding ------------------------------------------------------------------------------------------------------

    def watcher(self, flow_id: str) -> Watcher | None:
        return self._keeper.watchers.get(flow_id)

    def watchers(self) -> Iterable[Watcher]:
        return list(self._keeper.watchers.values())

    def resolve(self, principal: Principal, ref: str) -> Watcher:
        """:raises ContainerNotFound: also for what the principal may not see. :raises InvalidRequest: an ambiguous word."""
        entry = self._core.table.resolve(principal, ref)
        watcher = self._keeper.watchers.get(entry.id)
        if watcher is None:
            raise ContainerNotFound(ref, kind=entry.runtime.kind)
        return watcher

    # --- events of clients --------------------------------------------------------------------------------------------

    async def wake_container(self, principal: Principal, request: requests.WakeContainer) -> ContainerStatus:
        """:raises: as `Watcher.wake`."""
        watcher = self.resolve(principal, request.container_id)
        reason = f"{principal.name} asked for it"
        if request.wait:
            await watcher.wake(reason=reason, by_request=False)
        else:
            watcher.begin_wake(reason=reason, by_request=False)
        return self._core.status(watcher.entry)

    async def sleep_container(self, principal: Principal, request: requests.ChangeContainer) -> ContainerStatus:
        """:raises: as `sleeping.on_demand`."""
        watcher = self.resolve(principal, request.container_id)
        await sleeping.on_demand(watcher, principal)
        return self._core.status(watcher.entry)

    async def set_idle_policy(self, principal: Principal, request: requests.SetIdlePolicy) -> IdleExplanation:
        """:raises InvalidRequest: a cycle of dependencies. :raises Unsupported: a stop method that the runtime lacks."""
        watcher = self.resolve(principal, request.container_id)
        core, entry = self._core, watcher.entry
        core.refuse_when_closing()
        self.check_policy(entry.candidate, request.idle)
        before = entry.config
        # At once, so that two changes that would close a cycle together see each other.
        entry.config = before.model_copy(update={"idle": request.idle})
        try:
            first = before.idle is None and entry.observation is not None and entry.observation.state == "created"
            changes = {"config": packed(entry.config)}
            # As if it had been created with a policy: then the first request wakes it.
            await core.record(entry, **(changes | {"desired": "running"} if first else changes))
        except BaseException:
            entry.config = before
            raise
        core.observer.policy_changed(entry)
        await core.noted(
            core.activity.log_user_activity(
                "policy_changed",
                f"{principal.name} changed when flow *{entry.record.name}* sleeps",
                flow=entry.ref,
                actor=principal.name,
                details={"idle": request.idle.model_dump(mode="json")},
            )
        )
        core.tell(entry)
        return watcher.explain()

    def explain_container(self, principal: Principal, request: requests.OneContainer) -> IdleExplanation:
        return self.resolve(principal, request.container_id).explain()

    def subscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> WakeHistory:
        """Call `listener(flow id, event)` for each step from now on; what the current attempt has shown so far."""
        watcher = self.resolve(principal, request.container_id)
        flow_id, key = watcher.id, (watcher.id, listener)
        if key not in self._listeners:
            self._listeners[key] = watcher.history.subscribe(lambda event: listener(flow_id, event))
        return WakeHistory(history=watcher.history.entries())

    def unsubscribe_wake_events(
        self, principal: Principal, request: requests.OneContainer, listener: WakeListener
    ) -> None:
        watcher = self.resolve(principal, request.container_id)
        if (unsubscribe := self._listeners.pop((watcher.id, listener), None)) is not None:
            unsubscribe()

    def check_policy(self, flow: Candidate, policy: IdlePolicy | None) -> None:
        """:raises InvalidRequest: it would need itself, with the path. :raises Unsupported: the runtime can't do it."""
        if policy is None:
            return
        runtime, core = flow.runtime, self._core
        if policy.stop_method == "pause" and not runtime.capabilities.pause:
            raise Unsupported(f"the runtime '{runtime.name}' can't pause", kind=runtime.kind, capability="pause")
        if (
            policy.ready
            and policy.ready.channel
            and not runtime.capabilities.local_socket
            and not core.channel.remote_url
        ):
            raise Unsupported(
                f"flows of the runtime '{runtime.name}' have no channel to say ready on: settings give no channel.tls_listen",
                kind=runtime.kind,
                capability="local_socket",
            )
        service = service_of(flow.labels)

        def resolve(node: Node, ref: str) -> Node | None:
            there = core.table.get(node.id)
            if node is wanted or there is None:
                entry = core.table.meant(flow.tenant, runtime.name, ref, flow.labels)
            else:
                entry = core.meant(there, ref)
            if entry is not None:
                return wanted if entry.id == flow.id else Node(entry.id, entry.record.name, entry.config.idle)
            # It isn't in the table yet.
            beside = there is None or service is None or project_of(there.config.labels) == service[0]
            own = (flow.id, flow.name, service[1]) if service is not None and beside else (flow.id, flow.name)
            return wanted if ref in own else None

        wanted = Node(flow.id, flow.name, policy)
        if (cycle := find_cycle(wanted, resolve)) is not None:
            reason = f"a cycle: {in_words(cycle)}"
            raise InvalidRequest(
                f"idle.depends_on: {reason}",
                fields=[{"path": "idle.depends_on", "reason": reason}],
                cycle=[node.name for node in cycle],
            )

    # --- the manager's observer ---------------------------------------------------------------------------------------

    def flow_added(self, entry: FlowEntry) -> None:
        if entry.id in self._keeper.watchers:
            return
        watcher = self._keeper.watchers[entry.id] = Watcher(self._keeper, entry)
        self._generation += 1
        if entry.observation is not None:
            watcher.observed(None, entry.observation, None)

    def flow_removed(self, entry: FlowEntry) -> None:
        watcher = self._keeper.watchers.pop(entry.id, None)
        if watcher is None:
            return
        self._generation += 1
        watcher.removed()
        for key in [key for key in self._listeners if key[0] == entry.id]:
            del self._listeners[key]

    def operation_begins(self, entry: FlowEntry, operation: str, actor: str) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.operation_begins(operation, actor)

    def operation_ended(self, entry: FlowEntry, operation: str, actor: str, error: BaseException | None) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.operation_ended(operation, error)

    def operation_waits(self, entry: FlowEntry, waiting_for: str) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.waits_for(waiting_for)

    def operation_goes_on(self, entry: FlowEntry, waited_for: str) -> None:
        if (watcher := self._of(entry)) is not None and watcher.waiting_for == waited_for:
            watcher.waits_for(None)

    def flow_observed(
        self, entry: FlowEntry, before: Observation | None, now: Observation | None, cause: str | None
    ) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.observed(before, now, cause)

    def end_explained(self, entry: FlowEntry) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.end_explained()

    def policy_changed(self, entry: FlowEntry) -> None:
        self._generation += 1
        if (watcher := self._of(entry)) is not None:
            watcher.policy_changed()

    def channel_ready(self, entry: FlowEntry) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.said_ready()

    def channel_busy(self, entry: FlowEntry, seconds: float, reason: str | None) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.said_busy(seconds, reason)

    def channel_idle(self, entry: FlowEntry) -> None:
        if (watcher := self._of(entry)) is not None:
            watcher.said_idle()

    def runtime_away(self, runtime: str) -> None:
        for watcher in self._keeper.watchers.values():
            if watcher.entry.runtime.name == runtime:
                outage.went_away(watcher)

    def runtime_back(self, runtime: str) -> None:
        for watcher in list(self._keeper.watchers.values()):
            if watcher.entry.runtime.name == runtime:
                outage.came_back(watcher)
            outage.tell_truth(watcher)

    def flow_state(self, entry: FlowEntry) -> FlowState | None:
        watcher = self._of(entry)
        return watcher.state if watcher is not None else None

    def _of(self, entry: FlowEntry) -> Watcher | None:
        watcher = self._keeper.watchers.get(entry.id)
        return watcher if watcher is not None and watcher.entry is entry else None

    def _stood_still(self, now: float) -> None:
        self._keeper.not_before = now + AFTER_GAP
