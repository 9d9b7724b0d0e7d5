"""One flow as the manager holds it in memory: the record, what its runtime last said, and what is being done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from flow_manager.activity.log import FlowRef
from flow_manager.contract.models import ContainerConfig
from flow_manager.runtimes.base import Observation, Runtime
from flow_manager.store.base import FlowRecord


def packed(config: ContainerConfig) -> str:
    """As a record keeps it. The defaults are left out, so that they are not held a second time for each flow either."""
    return config.model_dump_json(exclude_defaults=True)


def unpacked(text: str) -> ContainerConfig:
    """:raises ValidationError: another version's, perhaps."""
    return ContainerConfig.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A flow that is about to be, or to have another idle policy. `labels` are those of a container that others made."""

    id: str
    name: str
    tenant: str
    runtime: Runtime
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class FlowEntry:
    """Mutable, and owned by the event loop: only the manager's own modules change it.

    `observation` is the last word of the runtime, None before the first. `stale` says that the runtime does not answer.
    `operation` names what holds the flow's lock. `seen_during_operation` remembers that a runtime event came meanwhile, so
    that the end of the operation looks once more. `problem` is the last thing that went wrong, for people.
    """

    record: FlowRecord
    config: ContainerConfig
    runtime: Runtime
    observation: Observation | None = None
    stale: bool = False
    lost: bool = False
    operation: str | None = None
    # Counts operations: what was asked of the runtime before one, and answered after it, is old news.
    operations: int = 0
    seen_during_operation: bool = False
    problem: str | None = None
    masked_environment: Mapping[str, str] = field(default_factory=dict)
    visible: bool = True
    # Why it last ended, where an event told: exit, oom, stop.
    end_cause: str | None = None
    # Set when the update under way is over; None while there is none.
    updating: asyncio.Event | None = None
    # An event said that somebody outside stopped it, and its watcher doesn't know of it yet: an operation of ours holds it, or
    # the inspect that follows every event is under way.
    stopped_outside: bool = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def ref(self) -> FlowRef:
        return FlowRef(self.record.id, self.record.name, self.record.tenant)

    @property
    def candidate(self) -> Candidate:
        record = self.record
        labels = self.config.labels if record.adopted else {}
        return Candidate(record.id, record.name, record.tenant, self.runtime, labels)

    @property
    def running(self) -> bool:
        return self.observation is not None and self.observation.running and not self.lost
