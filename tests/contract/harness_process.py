"""Local processes: each behaviour is a few lines of Python, started without site packages, which takes 20 ms."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flow_manager.runtimes.base import FlowSpec, Runtime
from flow_manager.runtimes.process.holding import HOLDER_MARK
from flow_manager.runtimes.process.kernel import find_session_leader
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Behaviour, flow_spec

FIXTURES: tuple[str, ...] = ()
SLEEP = "import time; print('ready', flush=True)\nwhile True: time.sleep(60)"
SCRIPTS: dict[str, str] = {
    "sleeps": SLEEP,
    "exits": "import sys; sys.exit(int(sys.argv[1]))",
    "prints": f"import sys\nfor line in sys.argv[1:]: print(line)\n{SLEEP}",
    "complains": f"import sys\nfor line in sys.argv[1:]: print(line, file=sys.stderr, flush=True)\n{SLEEP}",
    "counts": (
        "import itertools, time; print('ready', flush=True)\n"
        "for n in itertools.count(1): print('line', n, flush=True); time.sleep(0.02)"
    ),
    "ignores_term": f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}",
    "ends_with_zero": f"import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n{SLEEP}",
    "prints_environment": (
        "for line in open('/proc/self/environ', 'rb').read().split(b'\\0'): print(line.decode())\n" + SLEEP
    ),
    "dies_soon": "import os, time; time.sleep(0.3); os._exit(4)",
    "serves": (
        "import os, socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('127.0.0.1', int(os.environ['PORT']))); s.listen(); print('ready', flush=True)\n"
        "while True:\n c, _ = s.accept(); c.sendall(b'served\\n'); c.close()"
    ),
}


class ProcessHarness:
    kind = "process"
    name = "process"
    fresh = "created"
    clock_slack = 0.0

    def __init__(self, folder: Path) -> None:
        self.instance = f"test-{new_flow_id()}"
        self.state_dir = folder / "state"
        self.sockets_dir = folder / "sockets"
        self.specs: list[FlowSpec] = []

    def make(self, instance: str, settings: RuntimeSettings | None = None) -> ProcessProvider:
        return ProcessProvider(
            self.name,
            settings or RuntimeSettings(),
            instance=instance,
            limits=LimitSettings(),
            sockets_dir=self.sockets_dir,
            state_dir=self.state_dir,
        )

    async def open(self) -> Runtime:
        runtime = self.make(self.instance)
        await runtime.open()
        return runtime

    async def open_other_instance(self) -> Runtime:
        runtime = self.make(f"other-{self.instance}")
        await runtime.open()
        return runtime

    def spec(self, behaviour: Behaviour, *, code: int = 0, lines: tuple[str, ...] = (), **overrides: Any) -> FlowSpec:
        arguments = {"exits": (str(code),), "prints": lines, "complains": lines}.get(behaviour, ())
        command = ("no-such-command-anywhere",)
        if behaviour != "missing_command":
            command = (sys.executable, "-I", "-S", "-c", SCRIPTS[behaviour], *arguments)  # type: ignore[assignment]
        serves = 8000 if behaviour == "serves" else None
        spec = flow_spec(
            self.instance, image="local", command=command, serves=serves, channels=self.sockets_dir, overrides=overrides
        )
        self.specs.append(spec)
        return spec

    async def outside_kill(self, runtime: Runtime, id: str) -> None:
        pid = find_session_leader("FLOW_ID", id)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def outside_stop(self, runtime: Runtime, id: str) -> bool:
        """The kernel does not say who sent a signal."""
        return False

    def expected_environment(self, spec: FlowSpec) -> dict[str, str | None]:
        assert spec.channel_folder is not None
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "FLOW_ID": spec.id,
            "FLOW_SOCKET": str(spec.channel_folder / f"{spec.id}.sock"),
        }

    async def leftovers(self) -> list[str]:
        folders = [str(path) for path in (self.state_dir / "process").glob("*")]
        pids = {spec.id: find_session_leader("FLOW_ID", spec.id) for spec in self.specs}
        holders = {spec.id: find_session_leader(HOLDER_MARK, spec.id) for spec in self.specs}
        return folders + [
            f"process {pid} of {id}" for found in (pids, holders) for id, pid in found.items() if pid is not None
        ]


@asynccontextmanager
async def harness(tmp_path: Path) -> AsyncIterator[ProcessHarness]:
    ready = ProcessHarness(tmp_path)
    try:
        yield ready
    finally:
        runtime = await ready.open()
        for flow in await runtime.list():
            await runtime.remove(flow.id, force=True)
        await runtime.close()
        left = await ready.leftovers()
        assert left == [], left
        await asyncio.sleep(0)
