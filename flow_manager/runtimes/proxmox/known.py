"""One container as this runtime knows it: where it is, whose, what its config says, and what it was last seen to do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from flow_manager.contract.fields import NAME_PATTERN
from flow_manager.runtimes.base import LABEL_ENABLE, LABEL_NAME, Observation
from flow_manager.runtimes.proxmox.addresses import in_order, of_config, wants_ipv4
from flow_manager.runtimes.proxmox.identity import Identity
from flow_manager.runtimes.proxmox.resources import Row, text

State = Literal["running", "stopped", "paused"]
LABEL_CREATED = "flow-manager.created"
LABEL_IMAGE = "flow-manager.image"
LABEL_STOP_SIGNAL = "flow-manager.stop-signal"
LABEL_CONTAINER_NAME = "flow-manager.container-name"
# More than happen within the time in which a person's task is looked for.
OWN_TASKS = 16
# Uptimes are whole seconds, and those of the cluster's list up to ten seconds old: only a larger jump is another run.
ANOTHER_RUN = 25.0


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in its config, as far as it matters here."""

    name: str
    labels: Mapping[str, str]
    fixed: tuple[str, ...] = ()
    wants_ipv4: bool = True
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ostype: str = ""


def written(config: Mapping[str, Any], labels: Mapping[str, str], vmid: int) -> Written:
    """`GET config` → what it says."""
    pairs = (item.partition("=") for item in text(config.get("env")).split("\0") if item)
    return Written(
        name=text(config.get("hostname")) or f"CT{vmid}",
        labels=dict(labels),
        fixed=of_config(config),
        wants_ipv4=wants_ipv4(config),
        environment={name: value for name, _, value in pairs},
        ostype=text(config.get("ostype")),
    )


@dataclass(slots=True, eq=False)
class Known:
    """Mutable; changed by this runtime's own modules on the event loop alone. `acting` while one of our actions is under way:
    what is read meanwhile is about to be old. `turns` counts actions, for the same reason."""

    vmid: int
    node: str
    identity: Identity
    config: Written
    state: State = "stopped"
    row: Row | None = None
    started_at: datetime | None = None
    # The same moment as `started_at`, on the clock that never jumps: a wall clock that is set must not look like new runs.
    began: float | None = None
    addresses: tuple[str, ...] = ()
    problem: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    acting: int = 0
    turns: int = 0
    read_at: float = 0.0
    # The tags that the cluster's list had for it then.
    read_tags: frozenset[str] = frozenset()
    # A shutdown is under way, which a kill may overrule.
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    # An order on its way, and the (action, task) of the last one that nobody followed to its end: both go on in the server
    # when whoever gave them has given up.
    ordering: asyncio.Task[str | None] | None = None
    left: tuple[str, str] | None = None
    # Tasks that are this manager's own orders: no person's.
    own_tasks: deque[str] = field(default_factory=lambda: deque(maxlen=OWN_TASKS))
    # When its node's list last told of it, in monotonic seconds.
    listed_at: float = float("-inf")
    removed: bool = False
    # Its node is offline: all of this is old news.
    away: bool = False
    emulated: bool = False
    # Its owner took the tag, or the lines, away.
    let_go: bool = False

    @property
    def flow_id(self) -> str:
        return self.identity.flow_id

    @property
    def path(self) -> str:
        return f"nodes/{self.node}/lxc/{self.vmid}"

    @property
    def shutting_down(self) -> bool:
        return self.ending.is_set() or (self.left is not None and self.left[0] == "shutdown")

    @property
    def stop_signal(self) -> str | None:
        return self.config.labels.get(LABEL_STOP_SIGNAL)

    def saw(self, state: State, now: datetime, at: float, uptime: int | None = None) -> None:
        """It is so (`at`: monotonic). The moment of its start stays what it was, unless this must be another run."""
        if state == "running":
            since = now - timedelta(seconds=uptime or 0)
            another = uptime is not None and self.another_run(at, uptime)
            if self.state == "stopped" or self.started_at is None or another:
                self.started_at, self.began = since, at - (uptime or 0)
            if another:
                self.addresses = ()
        elif state == "stopped":
            self.addresses = ()
        self.state = state

    def another_run(self, at: float, uptime: int) -> bool:
        """So short an uptime is that of a run that began after the one that is known."""
        return self.began is not None and at - uptime - self.began > ANOTHER_RUN

    @property
    def located(self) -> bool:
        """Its addresses are all there: on most networks one of IPv6 comes first, and one by DHCP seconds later."""
        return any(":" not in address for address in self.addresses) or (
            bool(self.addresses) and not self.config.wants_ipv4
        )

    def observation(self) -> Observation:
        labels = dict(self.config.labels)
        adopted = self.identity.adopted
        if adopted:
            labels.setdefault(LABEL_ENABLE, "true")
        own_name = flow_name(self.config.name)
        made = labels.get(LABEL_CREATED)
        return Observation(
            id=self.flow_id,
            runtime_id=str(self.vmid),
            name=own_name if adopted else labels.get(LABEL_NAME) or own_name,
            state=self.state,
            started_at=self.started_at,
            created_at=_moment(made) if made and not adopted else None,
            image=labels.get(LABEL_IMAGE, "") or (f"lxc-{self.config.ostype}" if self.config.ostype else "lxc"),
            addresses=self.addresses if self.located else in_order((*self.addresses, *self.config.fixed)),
            labels=labels,
            error=self.problem,
            adopted=adopted,
            emulated=self.emulated,
            environment=dict(self.config.environment) if adopted else {},
        )


def flow_name(hostname: str) -> str:
    """`Web.example.org` → `web`: a flow is served by its name, which is one DNS label."""
    label = hostname.partition(".")[0].lower()
    return label if NAME_PATTERN.match(label) else hostname


def _moment(stamp: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
