"""The Proxmox runtime on the emulator, one container at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.proxmox.provider import ProxmoxProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_flow_id
from tests.pve.access import LEAST
from tests.pve.apidoc import must_be_genuine
from tests.pve.emulator import Emulator

INSTANCE = "test-instance"
INTERVAL = 0.1
NARROW = {"/vms": ("VM.Audit", "VM.PowerMgmt")}


class Lab:
    """An emulator, and runtimes that are closed at the end."""

    def __init__(self, pve: Emulator, folder: Path, stack: AsyncExitStack) -> None:
        self.pve, self.folder, self.stack = pve, folder, stack
        self.token_id = ""

    def settings(self, role: Mapping[str, Sequence[str]] = LEAST, **changes: Any) -> RuntimeSettings:
        if "user" not in changes:
            self.token_id, secret = self.pve.token(role=role)
            changes = {"token_id": self.token_id, "secret": secret, **changes}
        values: dict[str, Any] = {
            "kind": "proxmox",
            "url": self.pve.url,
            "ca_file": self.pve.ca_file,
            "storage": "local",
            "adopt": True,
            **changes,
        }
        return RuntimeSettings(**values)

    async def open(
        self,
        settings: RuntimeSettings | None = None,
        *,
        instance: str = INSTANCE,
        interval: float = INTERVAL,
        timeout: float = 20,
    ) -> ProxmoxProvider:
        runtime = ProxmoxProvider(
            "lab",
            settings or self.settings(),
            instance=instance,
            limits=LimitSettings(operation_timeout=timeout),
            sockets_dir=self.folder / "s",
            state_dir=self.folder / instance,
            interval=interval,
        )
        self.stack.push_async_callback(runtime.close)
        await runtime.open()
        return runtime

    async def adopted(self, runtime: ProxmoxProvider, vmid: int) -> str:
        """The flow's id of a container that the runtime is told to take on."""
        spec = make_spec(proxmox={"vmid": vmid})
        return (await runtime.create(spec)).id

    def actions(self, verb: str) -> int:
        """How often the server was told to start (stop, shutdown …) something."""
        return self.pve.calls()[f"POST /nodes/{{node}}/lxc/{{vmid}}/status/{verb}"]


def make_spec(**fields: Any) -> FlowSpec:
    from flow_manager.contract.proxmox import ProxmoxOptions

    if isinstance(fields.get("proxmox"), dict):
        fields["proxmox"] = ProxmoxOptions(**fields["proxmox"])
    id = new_flow_id()
    values: dict[str, Any] = {
        "id": id,
        "name": f"flow-{id}",
        "container_name": f"flow-{id}",
        "tenant": "default",
        "instance": INSTANCE,
        "image": "service",
        **fields,
    }
    return FlowSpec(**values)


@pytest.fixture
async def make_lab(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await make_lab(staleness=…)`: as Emulator."""
    made: list[Emulator] = []
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Lab:
            pve = await stack.enter_async_context(Emulator(**{"linger": 0.1, **options}))
            made.append(pve)
            return Lab(pve, tmp_path, stack)

        yield make
    for pve in made:
        must_be_genuine(pve.requests)


@pytest.fixture
async def lab(make_lab: Callable[..., Any]) -> Lab:
    made: Lab = await make_lab()
    return made
