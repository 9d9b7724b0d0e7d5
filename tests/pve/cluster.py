"""The cluster as a whole: nodes, containers, storages, workers, and what of it is told late."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.pve.access import Access
from tests.pve.container import Container
from tests.pve.errors import ApiError, TaskFailed, died
from tests.pve.inside import Inside
from tests.pve.storage import OciImage, Storage, Template
from tests.pve.tasks import Body, Task, Tasks
from tests.pve.tickets import Tickets

if TYPE_CHECKING:
    from tests.pve.console import Consoles

FIRST_VMID = 100
# After whatever has happened now.
INSTANT = 1e-6


@dataclass(slots=True)
class Timing:
    """Seconds. The defaults suit tests; the real ones stand behind."""

    task: float = 0.03  # 1 to 4
    staleness: float = 0.2  # 10
    linger: float = 0.0  # 3.4
    lock_wait: float = 0.5  # 10
    console_wait: float = 10.0
    ha_delay: float = 0.1  # 10
    idle: float = 5.0
    login_delay: float = 0.0  # 3 to 5
    # How long one second of `timeout=` of a shutdown takes.
    second: float = 1.0


@dataclass(slots=True)
class Node:
    name: str
    number: int
    online: bool = True
    # False: its pvestatd is silent, as after a boot, so that nothing is known of it.
    reports: bool = True
    # What its peers say of an unreachable one: 595 no connection, 596 no answer.
    unreachable: int = 595


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest of QEMU."""

    vmid: int
    node: str
    name: str
    running: bool = True


@dataclass(slots=True)
class Cluster:
    nodes: dict[str, Node]
    clock: Callable[[], float]
    folder: Path
    access: Access
    tickets: Tickets
    tasks: Tasks
    inside: Inside
    timing: Timing
    rng: random.Random
    version: tuple[int, ...] = (9, 2, 11)
    criu: bool = False
    asks_cursor: bool = False
    name: str = "emulated"
    containers: dict[int, Container] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    flapping: set[int] = field(default_factory=set)
    machines: dict[int, Machine] = field(default_factory=dict)
    """Virtual machines: nobody's business here, but they have numbers and stand among the resources."""
    downloads: dict[str, OciImage | None] = field(default_factory=dict)
    """What `download-url` finds, by address: an image, or a template."""
    registry: dict[str, OciImage] = field(default_factory=dict)
    """What `oci-registry-pull` finds, by reference."""
    began: float = 0.0
    consoles: Consoles = field(default_factory=lambda: _consoles())
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    """Consoles that are looked at."""
    questions: int = 0

    # --- versions ---------------------------------------------------------------------------------------------------

    @property
    def release(self) -> str:
        return ".".join(str(part) for part in self.version[:2])

    @property
    def has_oci(self) -> bool:
        return self.version >= (9, 1)

    # --- containers -------------------------------------------------------------------------------------------------

    def add(self, node: str, vmid: int, config: dict[str, Any]) -> Container:
        container = Container(vmid, node, config, self, self.folder / "containers" / str(vmid))
        container.history.append((self.clock(), None))
        self.containers[vmid] = container
        return container

    def forget(self, container: Container) -> None:
        self.containers.pop(container.vmid, None)
        self.inside.remove(container)

    def at(self, node: str, vmid: int) -> Container | None:
        found = self.containers.get(vmid)
        return found if found is not None and found.node == node else None

    def need(self, node: str, vmid: int) -> Container:
        """:raises ApiError: there is no 404: a missing container is a 500."""
        if (found := self.at(node, vmid)) is None:
            raise died(missing(node, vmid))
        return found

    def taken(self, vmid: int) -> str | None:
        """Who has this number already, in the server's words."""
        for word, guests in (("CT", self.containers), ("VM", self.machines)):
            if (guest := guests.get(vmid)) is not None:
                return f"{word} {vmid} already exists on node '{guest.node}'"
        return None

    def next_vmid(self) -> int:
        vmid = FIRST_VMID
        while vmid in self.containers or vmid in self.machines:
            vmid += 1
        return vmid

    def mac(self) -> str:
        return "BC:24:11:" + ":".join(f"{self.rng.randrange(256):02X}" for _ in range(3))

    # --- workers ----------------------------------------------------------------------------------------------------

    def fork(self, call: Any, type: str, body: Body, *, id: str | int | None = None) -> str:
        """Start a worker on the node that the call names; gives its UPID."""
        id = call.params["vmid"] if id is None else id
        return self.tasks.fork(call.params["node"], type, id, call.who, body, delay=self.timing.task)

    def need_in_task(self, node: str, vmid: int) -> Container:
        if (found := self.at(node, vmid)) is None:
            raise TaskFailed(missing(node, vmid))
        return found

    def task(self, node: str, upid: str) -> Task | None:
        found = self.tasks.all.get(upid)
        return found if found is not None and found.node == node else None

    # --- nodes and storages -----------------------------------------------------------------------------------------

    @property
    def entrance(self) -> Node:
        """The node that answers under the emulator's address: the first one that is there."""
        return next((node for node in self.nodes.values() if node.online), next(iter(self.nodes.values())))

    def storage(self, name: str) -> Storage:
        if (found := self.storages.get(name)) is None:
            raise died(f"storage '{name}' does not exist")
        return found

    def template(self, volid: str) -> Template:
        name, colon, _ = volid.partition(":")
        if not colon:
            raise ApiError(
                400, "Parameter verification failed.", errors={"ostemplate": f"unable to parse volume ID '{volid}'"}
            )
        if (found := self.storage(name).find(volid)) is None:
            raise died(f"volume '{volid}' does not exist")
        return found

    # --- what is told late ------------------------------------------------------------------------------------------

    @property
    def last_report(self) -> float:
        """When pvestatd has last told everybody what runs: /cluster/resources knows nothing newer."""
        step = self.timing.staleness
        if step <= 0:
            return self.clock() + INSTANT
        return self.began + (self.clock() - self.began) // step * step


def _consoles() -> Consoles:
    from tests.pve.console import Consoles  # it needs this module

    return Consoles()


def missing(node: str, vmid: int) -> str:
    return f"Configuration file 'nodes/{node}/lxc/{vmid}.conf' does not exist"
