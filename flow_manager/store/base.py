"""The store's protocols and records. Implementations: `sql` (SQLite; PostgreSQL later). Calls raise `DiskFull` or `Internal`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from flow_manager.contract.activity import Activity
from flow_manager.contract.models import DesiredState


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """What the manager knows of a flow beside what its runtime says.

    `config` is the ContainerConfig as JSON text, what is as by default left out, secrets included: the store's folder is closed
    to other users (0700). Text, because ten thousand records are held, and as objects they would take five times as much.
    `phase` tells a restarted manager what was under way: `creating`, `deleting` and `updating` are finished or undone at start;
    `released` is no flow any more, but a container that must not be adopted again.
    `request_key` is `<principal>:<request_id>` of the create, so that a retry after a crash finds what it made.
    """

    id: str
    name: str
    tenant: str
    runtime: str
    runtime_id: str | None
    config: str
    desired: DesiredState
    created_at: datetime
    phase: str = "created"  # creating | created | updating | deleting | released
    adopted: bool = False
    request_key: str | None = None
    # When its last use ended, as of the last flush: the idle deadline survives a restart of the manager.
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ActivityDraft:
    """An entry before it has its cursor. `tenant` decides who may see it and is not on the wire."""

    type: str
    tenant: str
    container_id: str | None
    name: str | None
    actor: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    timestamp: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredActivity:
    """An entry with its tenant, as it came out of the store."""

    tenant: str
    entry: Activity


@dataclass(frozen=True, slots=True)
class StoredReply:
    """The kept reply of a request: `fingerprint` tells whether a repeat is really the same request."""

    principal: str
    request_id: str
    fingerprint: str
    reply: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One that waits for its flow, without its body. `place` gives the order, and is never used again. `size` in bytes."""

    place: int
    flow_id: str
    message_id: str
    size: int
    created_at: datetime


class FlowStore(Protocol):
    async def save(self, record: FlowRecord) -> None:
        """Insert or replace, by id. :raises NameConflict: never; names are the manager's business."""
        ...

    async def delete(self, flow_id: str) -> None:
        """Remove it, and the messages that wait for it."""
        ...

    async def all(self) -> list[FlowRecord]: ...

    async def used(self, times: Mapping[str, datetime]) -> None:
        """Set `last_used_at` of many flows in one transaction; ids that are gone are passed over."""
        ...


class ActivityStore(Protocol):
    """An append-only log. `stream` is its random name, made with the log, so that a client notices a lost one."""

    stream: str

    async def append(self, drafts: Sequence[ActivityDraft]) -> list[StoredActivity]:
        """Store all in one transaction, in order; cursors are strictly increasing and never used twice, also after pruning."""
        ...

    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]: ...

    async def head(self) -> int:
        """The newest cursor ever given, 0 before the first."""
        ...

    async def floor(self) -> int:
        """The highest cursor that retention has removed, 0 while nothing was: `after` below it means a gap."""
        ...

    async def prune(self, *, older_than: datetime | None, keep: int | None) -> int:
        """Remove by age and count; how many went."""
        ...


class ReplyStore(Protocol):
    async def get(self, principal: str, request_id: str) -> StoredReply | None: ...

    async def put(self, reply: StoredReply) -> None: ...

    async def prune(self, *, older_than: datetime) -> int: ...


class OutboxStore(Protocol):
    """Messages that wait for flows that are away. They go with their flow: `FlowStore.delete` removes them."""

    async def put(
        self, flow_id: str, message_id: str, body: dict[str, Any], *, size: int, at: datetime
    ) -> StoredMessage:
        """Store it behind all others of its flow: calls keep the order in which they were made."""
        ...

    async def waiting(self) -> list[StoredMessage]:
        """All flows' messages, in order."""
        ...

    async def body(self, place: int) -> dict[str, Any] | None:
        """None: it is not there any more."""
        ...

    async def remove(self, places: Sequence[int]) -> None:
        """Those that are gone already are passed over."""
        ...

    async def prune(self, *, older_than: datetime) -> int:
        """Remove what is older; how many went."""
        ...


class Store(Protocol):
    flows: FlowStore
    activity: ActivityStore
    replies: ReplyStore
    outbox: OutboxStore

    async def open(self) -> None:
        """Open, and bring the schema up to date. :raises SettingsRefused: when the file is unusable, with the remedy."""
        ...

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """:raises SystemFailure: when it can't be read or written."""
        ...
