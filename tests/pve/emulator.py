"""A Proxmox VE cluster for tests: an HTTPS server of ours that behaves as a genuine 9.2 does with LXC.

    async with Emulator() as pve:
        token_id, secret = pve.token()
        vmid = pve.add_container(running=True)
        ...  # a client of pve.url, which trusts pve.ca_file

Each container that runs answers HTTP (and WebSocket) on an address of the loopback that `interfaces` tells, port 8080, or that
of the variable PORT in its `env`. One with an `entrypoint` runs that, for real, on this machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.pve import access as rights
from tests.pve import apidoc, certificate, control
from tests.pve.answers import Answers
from tests.pve.calls import Recorded
from tests.pve.cluster import Cluster, Machine, Node, Timing
from tests.pve.container import Behaviour, Container
from tests.pve.faults import Faults
from tests.pve.inside import HTTP_PORT, Inside
from tests.pve.server import Server
from tests.pve.storage import OciImage, Storage, Template
from tests.pve.tasks import Tasks
from tests.pve.tickets import Tickets

HOST = "127.0.0.1"
LAST_TURNS = 0.05
TEMPLATES = ("debian-12-standard_12.7-1_amd64.tar.zst", "alpine-3.22-default_20250617_amd64.tar.xz")
OCI_SERVICE = "service.tar"
OCI_LOOP = "loop.tar"
# Says "ready" and goes on until it is told to end.
LOOP = """sh -c 'trap "exit 0" TERM; echo ready; while :; do sleep 0.05; done'"""


class Emulator:
    """`task_time`, `staleness`, ... in seconds: `cluster.Timing` says what the real ones are."""

    def __init__(
        self,
        nodes: Sequence[str] = ("pve1", "pve2"),
        *,
        task_time: float = 0.03,
        staleness: float = 0.2,
        version: str = "9.2.11",
        lock_wait: float = 0.5,
        console_wait: float = 10.0,
        ha_delay: float = 0.1,
        login_delay: float = 0.0,
        ticket_life: float = 7200.0,
        second: float = 1.0,
        linger: float = 0.0,
        idle: float = 5.0,
        http_port: int = HTTP_PORT,
        port: int = 0,
        criu: bool = False,
        asks_cursor: bool = False,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng or random.Random()
        self._port = port
        self._folder: Path | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.control_secret = secrets.token_hex(8)
        self.ca_file = Path()
        self._answers = Answers(self._rng)
        access = rights.Access(clock)
        access.prepare()
        self.cluster = Cluster(
            nodes={name: Node(name, number) for number, name in enumerate(nodes, 1)},
            clock=clock,
            folder=Path(),
            access=access,
            tickets=Tickets(secrets.token_bytes(32), clock, ticket_life),
            tasks=Tasks(clock),
            inside=Inside(self._answers, clock, http_port=http_port),
            timing=Timing(task_time, staleness, linger, lock_wait, console_wait, ha_delay, idle, login_delay, second),
            rng=self._rng,
            version=tuple(int(part) for part in version.split(".")),
            criu=criu,
            asks_cursor=asks_cursor,
        )
        self.faults = Faults(self.cluster, self._hang_up)
        self.server = Server(self.cluster, self.faults)
        self.add_storage("local")
        for name in TEMPLATES:
            self.add_template(name)
        # One that answers HTTP as an emulated container does, and one that really runs.
        self.add_template(OCI_SERVICE, oci=OciImage(env={"GREETING": "hello"}, serves=True))
        self.add_template(OCI_LOOP, oci=OciImage(entrypoint=LOOP, env={"GREETING": "hello"}))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.close()
        if kind is None and self.server.bugs:
            raise AssertionError("the emulator is at fault:\n" + "\n".join(self.server.bugs[:3]))
        if kind is None and (wrong := self.complaints()):
            raise AssertionError("a genuine server would not have done so:\n" + "\n".join(wrong[:20]))

    async def open(self) -> None:
        """:raises OSError: the port is taken; nothing is left then."""
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pve-emulator-"))
        self.cluster.folder = self._folder
        self.cluster.began = self.cluster.clock()
        self._answers.name_of = self._name_of
        context, self.ca_file = certificate.make(self._folder)
        await self._answers.open()
        app = web.Application(client_max_size=1 << 30)
        control.add(app, self)
        app.router.add_route("*", "/{path:.*}", self.server.handle)
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self.cluster.timing.idle, shutdown_timeout=0.2
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._port, ssl_context=context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"https://{HOST}:{self._port}"

    async def close(self) -> None:
        await self.faults.close()
        await self.cluster.tasks.close()
        self._hang_up()
        await self.cluster.inside.settle()
        for container in list(self.cluster.containers.values()):
            await self.cluster.inside.stop(container)
        await self.cluster.inside.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._answers.close()
        # A connection whose client has left in the middle of the handshake is closed in the loop's next turns.
        await asyncio.sleep(LAST_TURNS)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def control_url(self) -> str:
        """Where the faults are switched by HTTP. It holds a secret: a container that is made there may run a program."""
        return f"{self.url}/emulator/{self.control_secret}"

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def containers(self) -> Mapping[int, Container]:
        return self.cluster.containers

    @property
    def requests(self) -> list[Recorded]:
        """Every request with its answer, the oldest first."""
        return self.server.requests

    def calls(self) -> Counter[str]:
        """How often each endpoint was called: `{"GET /cluster/resources": 3, ...}`."""
        return Counter(each.endpoint or f"{each.method} {each.path}" for each in self.requests)

    def dump(self, file: Path) -> None:
        """The requests with their answers, a line of JSON each."""
        lines = (json.dumps(each.as_dict()) for each in self.requests)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def complaints(self) -> list[str]:
        """Where a request or an answer is against the schema of a genuine server; nothing, where there is none at hand."""
        file = apidoc.find()
        return [] if file is None else apidoc.complaints(apidoc.load(file), self.requests)

    # --- what is made behind everybody's back -----------------------------------------------------------------------

    def user(self, name: str = "flow@pve", password: str = "let-me-in-2") -> tuple[str, str]:
        """A user, with no right yet: `(name, password)`."""
        self.cluster.access.add_user(name, password)
        return name, password

    def grant(self, id: str, role: Mapping[str, Sequence[str]]) -> None:
        """Privileges by path, to a user or to a token."""
        self.cluster.access.grant(id, role)

    def token(
        self,
        name: str = "flow",
        *,
        user: str = "flow@pve",
        role: Mapping[str, Sequence[str]] | None = None,
        privsep: bool = True,
    ) -> tuple[str, str]:
        """An API token with a role of its own: `("flow@pve!flow", secret)`. `role`: privileges by path (`access.LEAST`)."""
        given = rights.LEAST if role is None else role
        if user not in self.cluster.access.users:
            self.user(user)
        if user != rights.ROOT:
            self.grant(user, given)  # the token gets what both have
        token = self.cluster.access.add_token(user, name, privsep=privsep)
        if privsep:
            self.grant(token.id, given)
        return token.id, token.secret

    def add_storage(self, name: str) -> Storage:
        self.cluster.storages[name] = Storage(name)
        return self.cluster.storages[name]

    def add_template(self, name: str, *, storage: str = "local", oci: OciImage | None = None) -> str:
        """Its volume id, for `ostemplate`."""
        template = Template(name, oci=oci)
        self.cluster.storages[storage].templates[name] = template
        return self.cluster.storages[storage].volid(template)

    def add_container(
        self,
        node: str = "pve1",
        vmid: int | None = None,
        *,
        name: str | None = None,
        running: bool = False,
        tags: str = "",
        description: str = "",
        template: bool = False,
        ha: bool = False,
        behaviour: Behaviour | None = None,
        **config: Any,
    ) -> int:
        """One that was there before the manager; gives its vmid. `config`: further options (`cmode="shell"`, `env=...`)."""
        vmid = self.cluster.next_vmid() if vmid is None else vmid
        options: dict[str, Any] = {
            "arch": "amd64",
            "hostname": name or f"ct{vmid}",
            "memory": 512,
            "swap": 512,
            "ostype": "debian",
            "cmode": "shell",
            "unprivileged": 1,
            "rootfs": f"local:{vmid}/vm-{vmid}-disk-0.raw,size=4G",
            "net0": f"name=eth0,bridge=vmbr0,hwaddr={self.cluster.mac()},ip=dhcp,type=veth",
            **{key: value for key, value in (("tags", tags), ("description", description)) if value},
            **({"template": 1} if template else {}),
            **config,
        }
        container = self.cluster.add(node, vmid, options)
        # It has been there for long.
        container.history.clear()
        container.ha = ha
        container.behaviour = behaviour or Behaviour()
        if running:
            self.cluster.inside.start_soon(container)
            container.history.clear()
        return vmid

    def add_machine(
        self, node: str = "pve1", vmid: int | None = None, *, name: str = "vm", running: bool = True
    ) -> int:
        """A virtual machine: it has a number, and stands among the resources; nothing more."""
        vmid = self.cluster.next_vmid() if vmid is None else vmid
        self.cluster.machines[vmid] = Machine(vmid, node, name, running)
        return vmid

    def address(self, vmid: int) -> str:
        """Where a running container answers: `host:port`."""
        container = self.cluster.containers[vmid]
        return f"{self._answers.address(vmid)}:{self.cluster.inside.port(container)}"

    def _name_of(self, address: str) -> str:
        found = (container for container in self.cluster.containers.values() if container.address == address)
        return next((f"CT {container.vmid} ({container.name})" for container in found), address)

    def _hang_up(self) -> None:
        """Cut every open connection."""
        if self._runner is None or self._runner.server is None:
            return
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
