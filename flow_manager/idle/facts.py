"""What a flow is, for its watcher: read from its entry at each look, never kept twice."""

from __future__ import annotations

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import DesiredState, FlowState, IdlePolicy
from flow_manager.idle.upstream import flow_port


class FlowFacts:
    """The base of Watcher."""

    __slots__ = ("entry", "state", "wished")

    entry: FlowEntry
    state: FlowState
    wished: DesiredState | None

    @property
    def id(self) -> str:
        return self.entry.record.id

    @property
    def name(self) -> str:
        return self.entry.record.name

    @property
    def tenant(self) -> str:
        return self.entry.record.tenant

    @property
    def policy(self) -> IdlePolicy | None:
        return self.entry.config.idle

    @property
    def desired(self) -> DesiredState:
        return self.wished or self.entry.record.desired

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(self.entry.config.hosts)

    @property
    def port(self) -> int | None:
        """Where it listens, as the flow itself counts its ports."""
        return flow_port(self.entry.config, self.entry.observation)

    @property
    def up(self) -> bool:
        """Its processes run and are not frozen, as far as is known."""
        return self._state_there == "running" and not self.entry.lost

    @property
    def awake(self) -> bool:
        return self.state in ("starting", "ready", "stopping") or (self.state == "error" and self.up)

    @property
    def _state_there(self) -> str | None:
        return self.entry.observation.state if self.entry.observation is not None else None

    @property
    def never_ran(self) -> bool:
        """Made without a policy and never started: of such a one nobody can say that somebody stopped it."""
        return self._state_there == "created" and self.policy is None
