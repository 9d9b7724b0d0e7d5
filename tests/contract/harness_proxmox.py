"""The Proxmox runtime held to the promises, on the emulator: see `harness.py`. Flows are shell scripts, as entrypoints."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flow_manager.runtimes.base import FlowSpec, Runtime
from flow_manager.runtimes.proxmox.description import read_description
from flow_manager.runtimes.proxmox.provider import ProxmoxProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Behaviour, flow_spec
from tests.pve.access import LEAST
from tests.pve.apidoc import must_be_genuine
from tests.pve.emulator import Emulator

FIXTURES: tuple[str, ...] = ()
INTERVAL = 0.1
SERVED_PORT = 8080
FOR_EVER = "while :; do sleep 0.05; done"
SLEEP = f"trap 'exit 143' TERM; echo ready; {FOR_EVER}"


class Watched(ProxmoxProvider):
    """A real server shows nothing of what a container writes; the emulator does, to those who look behind it."""

    emulator: Emulator

    async def behind(self, id: str) -> list[str]:
        container = self.emulator.containers[(await self._inventory.find(id)).vmid]
        return [line.rstrip("\r") for line in container.written.splitlines()]


class ProxmoxHarness:
    kind = "proxmox"
    name = "lab"
    fresh = "stopped"
    clock_slack = 2.0

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder
        self.instance = f"t-{new_flow_id()}"
        self.other_instance = f"o-{new_flow_id()}"
        token_id, secret = emulator.token(role=LEAST)
        self.settings = RuntimeSettings(
            kind="proxmox",
            url=emulator.url,
            token_id=token_id,
            secret=secret,
            ca_file=emulator.ca_file,
            storage="local",
            adopt=False,
        )

    async def open(self) -> Runtime:
        return await self._open(self.instance)

    async def open_other_instance(self) -> Runtime:
        return await self._open(self.other_instance)

    async def _open(self, instance: str) -> Runtime:
        runtime = Watched(
            self.name,
            self.settings,
            instance=instance,
            limits=LimitSettings(),
            sockets_dir=self.folder / "sockets",
            state_dir=self.folder / instance,
            interval=INTERVAL,
        )
        runtime.emulator = self.emulator
        await runtime.open()
        return runtime

    def spec(self, behaviour: Behaviour, *, code: int = 0, lines: tuple[str, ...] = (), **overrides: Any) -> FlowSpec:
        serves = SERVED_PORT if behaviour == "serves" else None
        command = self._command(behaviour, code, lines)
        return flow_spec(self.instance, image="loop", command=command, serves=serves, overrides=overrides)

    def _command(self, behaviour: Behaviour, code: int, lines: tuple[str, ...]) -> tuple[str, ...]:
        if behaviour == "missing_command":
            return ("no-such-command", "--at-all")
        printed = "".join(f"echo {shlex.quote(line)}; " for line in lines)
        scripts = {
            "sleeps": SLEEP,
            "exits": f"exit {code}",
            "prints": f"{printed}{SLEEP}",
            "ignores_term": f"trap '' TERM; echo ready; {FOR_EVER}",
            "ends_with_zero": f"trap 'exit 0' TERM; echo ready; {FOR_EVER}",
            "prints_environment": f"env; {SLEEP}",
            "dies_soon": "sleep 0.3; exit 4",
            "serves": SLEEP,
        }
        return ("sh", "-c", scripts[behaviour])

    async def outside_kill(self, runtime: Runtime, id: str) -> None:
        await self._container(id).stop_outside()

    async def outside_stop(self, runtime: Runtime, id: str) -> bool:
        return False  # a task of somebody else's, which only a login with Sys.Audit may see: see its own tests

    def _container(self, id: str) -> Any:
        return next(one for one in self.emulator.containers.values() if self._labels(one).get("flow-manager.id") == id)

    @staticmethod
    def _labels(container: Any) -> dict[str, str]:
        return read_description(str(container.config.get("description", "")))

    def expected_environment(self, spec: FlowSpec) -> dict[str, str | None]:
        return {
            "PATH": None,
            "PWD": None,
            "container": "lxc",
            "TERM": "linux",
            "PVE_EMULATOR_ADDRESS": None,
            "FLOW_ID": spec.id,
            "GREETING": "hello",
        }

    async def leftovers(self) -> list[str]:
        mine = [one for one in self.emulator.containers.values() if self._labels(one)]
        return [f"container {one.vmid}" for one in mine if self._labels(one)["flow-manager.instance"] == self.instance]


@asynccontextmanager
async def harness(tmp_path: Path) -> AsyncIterator[ProxmoxHarness]:
    async with Emulator() as emulator:
        yield ProxmoxHarness(emulator, tmp_path)
    must_be_genuine(emulator.requests)
