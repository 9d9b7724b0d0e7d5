"""The Docker runtime held to the promises: see `harness.py`. Flows are shell scripts in a static busybox."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flow_manager.runtimes.base import LABEL_INSTANCE, FlowSpec, Runtime
from flow_manager.runtimes.docker.provider import DockerProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Behaviour, flow_spec
from tests.engine import engine_api, images

FIXTURES = ("docker_engine",)
SERVED_PORT = 8080
# `wait` returns at once when a signal comes, so that a trap runs without waiting for the sleep to end.
FOR_EVER = "while :; do sleep 3600 & wait $!; done"
SLEEP = f"trap 'exit 143' TERM; echo ready; {FOR_EVER}"
# A missing registry must not make the suite wait for its own time limit.
PULL_STALL = 5


class DockerHarness:
    kind = "docker"
    name = "lab"
    fresh = "created"
    clock_slack = 0.0

    def __init__(self, host: str, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.instance = f"t-{new_flow_id()}"
        self.other_instance = f"o-{new_flow_id()}"

    async def open(self) -> Runtime:
        return await self._open(self.instance)

    async def open_other_instance(self) -> Runtime:
        return await self._open(self.other_instance)

    async def _open(self, instance: str) -> Runtime:
        runtime = DockerProvider(
            self.name,
            RuntimeSettings(kind="docker", url=self.host, adopt=False),
            instance=instance,
            limits=LimitSettings(pull_stall=PULL_STALL),
            sockets_dir=self.folder / "sockets",
            state_dir=self.folder / "state",
        )
        await runtime.open()
        return runtime

    def spec(self, behaviour: Behaviour, *, code: int = 0, lines: tuple[str, ...] = (), **overrides: Any) -> FlowSpec:
        spec = flow_spec(
            self.instance,
            image=images.BUSYBOX,
            command=self._command(behaviour, code, lines),
            serves=SERVED_PORT if behaviour == "serves" else None,
            channels=self.folder / "sockets",
            overrides=overrides,
        )
        if spec.channel_folder is not None:
            spec.channel_folder.mkdir(parents=True, mode=0o711, exist_ok=True)
        return spec

    def _command(self, behaviour: Behaviour, code: int, lines: tuple[str, ...]) -> tuple[str, ...]:
        if behaviour == "missing_command":
            return ("no-such-command", "--at-all")
        printed = "".join(f"echo {shlex.quote(line)}; " for line in lines)
        scripts = {
            "sleeps": SLEEP,
            "complains": f"{{ {printed or ':; '}}} >&2; {SLEEP}",
            "counts": "trap 'exit 143' TERM; echo ready; n=0; while :; do n=$((n+1)); echo line $n; usleep 20000; done",
            "exits": f"exit {code}",
            "prints": f"{printed}{SLEEP}",
            "ignores_term": f"trap '' TERM; echo ready; {FOR_EVER}",
            "ends_with_zero": f"trap 'exit 0' TERM; echo ready; {FOR_EVER}",
            "prints_environment": f"env; {SLEEP}",
            "dies_soon": "sleep 0.3; exit 4",
            "serves": f"nc -ll -p {SERVED_PORT} -e echo served & {SLEEP}",
        }
        return ("sh", "-c", scripts[behaviour])

    async def outside_kill(self, runtime: Runtime, id: str) -> None:
        for container in self._containers():
            if container["Labels"]["flow-manager.id"] == id:
                engine_api.request(self.host, "POST", f"/containers/{container['Id']}/kill", params={"signal": "KILL"})

    async def outside_stop(self, runtime: Runtime, id: str) -> bool:
        for container in self._containers():
            if container["Labels"]["flow-manager.id"] == id:
                path = f"/containers/{container['Id']}/stop"
                await asyncio.to_thread(engine_api.request, self.host, "POST", path, params={"t": 30})
        return True

    def expected_environment(self, spec: FlowSpec) -> dict[str, str | None]:
        return {
            "PATH": None,
            "HOSTNAME": None,
            "HOME": "/root",
            "PWD": None,  # the shell's own
            "SHLVL": None,
            "FLOW_ID": spec.id,
            "FLOW_SOCKET": f"/run/flow/{spec.id}.sock",
        }

    async def leftovers(self) -> list[str]:
        return [f"container {container['Names'][0]}" for container in self._containers()]

    def _containers(self, instance: str | None = None) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [f"{LABEL_INSTANCE}={instance or self.instance}"]})
        found = engine_api.request(self.host, "GET", "/containers/json", params={"all": 1, "filters": filters})
        return list(found)

    def clean(self) -> None:
        """Whatever the test left, networks included."""
        for instance in (self.instance, self.other_instance):
            for container in self._containers(instance):
                engine_api.request(
                    self.host, "DELETE", f"/containers/{container['Id']}", params={"force": 1, "v": 1}, timeout=60
                )
            filters = json.dumps({"label": [f"{LABEL_INSTANCE}={instance}"]})
            networks = engine_api.request(self.host, "GET", "/networks", params={"filters": filters})
            for network in networks:
                engine_api.request(self.host, "DELETE", f"/networks/{network['Id']}")


@asynccontextmanager
async def harness(tmp_path: Path, *, docker_engine: str) -> AsyncIterator[DockerHarness]:
    ready = DockerHarness(docker_engine, tmp_path)
    try:
        yield ready
    finally:
        ready.clean()
