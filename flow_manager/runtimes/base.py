"""The runtime protocol: everything that can run a flow looks like this to the rest of the service.

Promises of every implementation, each held to by `tests/contract`:

- Everything is keyed by the flow's id, never by the runtime's own.
- Every call is bounded in time; an engine that hangs gives `RuntimeUnavailable`.
- Failures are `flow_manager.errors` with the runtime's `kind`; nothing of the library beneath leaks.
- A cancelled or failed `create` leaves nothing half-made behind.
- A call returns after its effect was seen: after `kill` the state is `exited` (or `stopped` where no code is known).
- `watch()` survives drops by reconnecting inside, and says `resync` whenever events may have been missed.
- Only containers of this manager's own instance (label `flow-manager.instance`), and those of others that ask for it with
  the label `flow-manager.enable=true`, or that settings name (`[[flows]]`), and that name no other instance, are ever listed
  or touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from flow_manager.contract.models import ContainerHealth, ContainerState, ResourceUsage
from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.runtimes.inside import Inside

LABEL_ID = "flow-manager.id"
LABEL_NAME = "flow-manager.name"
LABEL_INSTANCE = "flow-manager.instance"
LABEL_TENANT = "flow-manager.tenant"
# `true` on a container that others made: it is to be managed (wire contract, section 6).
LABEL_ENABLE = "flow-manager.enable"
# The flow's own channel, seen from inside a container (wire contract, section 7).
CHANNEL_FOLDER_IN_CONTAINER = "/run/flow"
CODE_FOLDER_IN_CONTAINER = "/flow"

Progress = Callable[[str], None]
"""Told in words what a long create is doing ("pulling alpine: 40 %"); must not raise, may be called often."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can do; whatever is False is answered with `unsupported` before anything is tried."""

    pause: bool = True
    signals: bool = True
    exec: bool = False
    attach: bool = False
    put_code: bool = False
    exit_codes: bool = True
    events: bool = True
    logs: bool = True
    stable_id: bool = True
    local_socket: bool = True
    networks: bool = False
    limits: bool = False
    tty: bool = False
    images: bool = False
    volumes: bool = False
    # False: a folder of this machine can't be seen in a flow; its code is copied in when it is made.
    mounts: bool = True
    # False: a flow can do whatever the manager's own user can (local processes).
    isolation: bool = True

    def as_dict(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path (already resolved and allowed) seen at `target` in the flow."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class PortBinding:
    """`host_port` 0 means any free one. `host_ip` is the address it is published on."""

    container_port: int
    protocol: str
    host_port: int
    host_ip: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Everything a runtime needs to make one flow: judged and resolved already, so that a runtime only translates.

    `environment` holds the flow's own variables; a runtime adds FLOW_ID, FLOW_SOCKET (and FLOW_CODE with code) as its
    flows see them. `channel_folder` is the host's folder that holds `<id>.sock`, None on a runtime without `local_socket`:
    that one adds `channel_variables` instead (FLOW_URL, FLOW_TOKEN and FLOW_CA: one line each; none where the manager has
    no TLS port). `code_folder` is the host's copy of the code; a runtime without `mounts` copies it in.
    `container_name` is what the engine calls it. `memory` in bytes, `cpus` in cores.
    """

    id: str
    name: str
    container_name: str
    tenant: str
    instance: str
    image: str
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    working_dir: str | None = None
    tty: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    stop_signal: str | None = None
    stop_timeout: float = 10.0
    channel_folder: Path | None = None
    channel_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    code_folder: Path | None = None
    # On Proxmox VE: where and of what it is made, or which existing container it is.
    proxmox: ProxmoxOptions | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a runtime says of one flow at one moment. Times are aware, UTC. `labels` are the container's own.

    `ports` maps `container_port/proto` to the host port that was chosen (empty while it does not run, where the runtime
    only then knows).

    `adopted`: others made it. Then `published` maps the ports that it asks for to host ports (0: any), whether it runs or
    not, `environment` is what it was made with, and a container made anew in its place keeps `id` but not `runtime_id`.
    """

    id: str
    runtime_id: str | None
    name: str
    state: ContainerState
    health: ContainerHealth = "none"
    exit_code: int | None = None
    error: str | None = None
    started_at: datetime | None = None
    created_at: datetime | None = None
    image: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    oom_killed: bool = False
    adopted: bool = False
    published: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    # TCP ports that the image or the container says it listens on, published or not, lowest first.
    exposed: tuple[int, ...] = ()
    # Its addresses are this machine's own, because its runtime only pretends (settings said so): else those lead nowhere.
    emulated: bool = False
    # Its engine is on another machine, at this address ("" while that isn't known): the flow's own addresses lead nowhere
    # from here, or to somebody else, and its published ports are there. None: it is on this one.
    engine_host: str | None = None

    @property
    def running(self) -> bool:
        """True while it holds processes: running, paused or about to run again."""
        return self.state in ("running", "paused", "restarting")


RuntimeEventType = Literal[
    "created",
    "started",
    "died",
    "paused",
    "unpaused",
    "removed",
    "health",
    "waiting",
    "waited",
    "resync",
    "unavailable",
    "available",
]


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened. `id` is None for `resync`, and for `unavailable` and `available` of the whole runtime; with an id
    these say that this one flow can't be asked for now, or can again.

    A hint, not the truth: whoever gets one looks again (`inspect`). `cause` of a `died`, where it is known: `exit`, `oom`,
    or `stop`: a person or another tool ended it. None for an end that this manager itself brought about.

    `waiting`: the operation under way on this flow is held up by something outside, which `reason` names; `waited`: no more.
    """

    type: RuntimeEventType
    id: str | None = None
    exit_code: int | None = None
    cause: str | None = None
    reason: str | None = None
    at: datetime | None = None


class Runtime(Inside, Protocol):
    """One configured runtime. `name` as settings call it, `kind` what it is: docker, process, memory, proxmox."""

    name: str
    kind: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect. Does not fail when the engine is away: calls then give `RuntimeUnavailable` until it is back."""
        ...

    async def close(self) -> None:
        """Give back every connection and task. Flows go on, except where `stop_all_on_close` is documented (process)."""
        ...

    async def ping(self, timeout: float = 5.0) -> None:
        """Really ask the engine.

        :raises RuntimeUnavailable: when it does not answer in `timeout` seconds.
        """
        ...

    async def create(self, spec: FlowSpec, progress: Progress | None = None) -> Observation:
        """Make the flow, not started.

        :raises ImageNotFound, NameConflict, NoSpace, Unsupported, RuntimeRefused, RuntimeUnavailable: nothing is left then.
        """
        ...

    async def start(self, id: str) -> Observation:
        """Start it; one that runs is left as it is. A paused one is let go on.

        :raises ContainerNotFound, StartFailed, PortInUse, RuntimeUnavailable:
        """
        ...

    async def stop(self, id: str, *, signal: str | None = None, timeout: float = 10.0) -> Observation:
        """`signal` (default: the image's or TERM), then KILL after `timeout` seconds. One that does not run is left as it is.

        :raises ContainerNotFound, StopFailed, RuntimeUnavailable:
        """
        ...

    async def kill(self, id: str, signal: str = "SIGKILL") -> Observation:
        """Send a signal now. With SIGKILL it returns once the flow has ended; with others at once.

        :raises ContainerNotFound, ContainerStopped, Unsupported, RuntimeUnavailable:
        """
        ...

    async def pause(self, id: str) -> Observation:
        """Freeze. :raises ContainerNotFound, ContainerStopped, Unsupported, RuntimeUnavailable:"""
        ...

    async def unpause(self, id: str) -> Observation:
        """Let go on; one that is not paused is left as it is. :raises ContainerNotFound, ContainerStopped, RuntimeUnavailable:"""
        ...

    async def remove(self, id: str, *, force: bool = False) -> None:
        """Remove it and what the runtime kept for it; one that is gone already counts as removed.

        :raises ContainerRunning: it runs and `force` is False.
        """
        ...

    async def inspect(self, id: str) -> Observation:
        """:raises ContainerNotFound, RuntimeUnavailable:"""
        ...

    async def stats(self, id: str) -> ResourceUsage:
        """One reading now. A flow that does not run has nulls. :raises ContainerNotFound, RuntimeUnavailable:"""
        ...

    async def glance(self) -> list[Observation]:
        """As `list`, cheap enough to be asked every half minute of ten thousand flows.

        Where nothing that such a look can show has changed, it may be what was observed earlier.
        """
        ...

    async def list(self) -> list[Observation]:
        """All flows of this instance, whatever their state."""
        ...

    def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Events from now on, until the iterator is closed or the runtime is. The first event is a `resync`."""
        ...


RuntimeFactory = Callable[..., Runtime]
RuntimeDetails = dict[str, Any]
