"""Flows as Docker containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from aiodocker.exceptions import DockerError

from flow_manager.contract.models import ResourceUsage
from flow_manager.errors import ContainerNotFound
from flow_manager.runtimes.base import Capabilities, FlowSpec, Observation, Progress, RuntimeEvent
from flow_manager.runtimes.docker import stats
from flow_manager.runtimes.docker.client import Answer, EngineClient, engine_url
from flow_manager.runtimes.docker.code import CodeCopier
from flow_manager.runtimes.docker.containers import READ_SECONDS, Containers, Handle
from flow_manager.runtimes.docker.create import Creator
from flow_manager.runtimes.docker.ending import Ending
from flow_manager.runtimes.docker.errors import KIND, Subject, translated
from flow_manager.runtimes.docker.events import Feed
from flow_manager.runtimes.docker.exec import Executor
from flow_manager.runtimes.docker.exec_end import CommandEnding
from flow_manager.runtimes.docker.leftovers import Leftovers, Marks
from flow_manager.runtimes.docker.log_calls import follow, last_lines
from flow_manager.runtimes.docker.networks import Networks
from flow_manager.runtimes.docker.observe import dig, text
from flow_manager.runtimes.docker.ourselves import own_container
from flow_manager.runtimes.docker.remove import Remover
from flow_manager.runtimes.docker.retry import repeat
from flow_manager.runtimes.docker.spec import container_body
from flow_manager.runtimes.docker.start import Starter
from flow_manager.runtimes.docker.terminal import Terminals
from flow_manager.runtimes.docker.whereabouts import EngineHost, is_elsewhere
from flow_manager.runtimes.inside import Command, ExecOutcome, LogLine, LogPosition, NothingInside, Terminal
from flow_manager.settings.models import FlowSettings, LimitSettings
from flow_manager.settings.runtime import RuntimeSettings

CAPABILITIES = Capabilities(
    exec=True, attach=True, put_code=True, networks=True, limits=True, tty=True, images=True, volumes=True
)
ELSEWHERE = replace(CAPABILITIES, local_socket=False, volumes=False, mounts=False)


class DockerProvider(NothingInside):
    """The runtime `docker`. Keeps no state that the engine does not have: another one on the same engine sees the same.

    A flow is found by the labels `flow-manager.id` and `flow-manager.instance`; one that others made, by
    `flow-manager.enable=true` or the name or id that settings give (`flows`; see `identity`). Nothing else on the engine is touched.
    """

    kind = KIND
    capabilities = CAPABILITIES

    def __init__(
        self,
        name: str,
        settings: RuntimeSettings,
        *,
        instance: str,
        limits: LimitSettings,
        sockets_dir: Path,
        state_dir: Path,
        flows: Sequence[FlowSettings] = (),
    ) -> None:
        self.name = name
        self._settings = settings
        self._timeout = limits.operation_timeout
        self._sockets_dir, self._state_dir = sockets_dir, state_dir
        url = engine_url(settings.url, os.environ)
        self.client = EngineClient(url)
        self._elsewhere = EngineHost(url) if is_elsewhere(url, settings) else None
        if self._elsewhere is not None:
            self.capabilities = ELSEWHERE
        declared = tuple(flow.container for flow in flows if flow.container is not None)
        self._containers = Containers(
            self.client,
            instance,
            runtime=name,
            adopts=bool(settings.adopt),
            declared=declared,
            elsewhere=self._elsewhere,
        )
        self._networks = Networks(self._containers, None if self._elsewhere else own_container())
        self._ending = Ending(self._containers, timeout=self._timeout)
        self._creator = Creator(
            self.client,
            self._containers,
            self._networks,
            timeout=self._timeout,
            pull_stall=limits.pull_stall,
            copier=CodeCopier(self.client, timeout=self._timeout) if self._elsewhere else None,
        )
        self._starter = Starter(
            self._containers, self._networks, self._ending, self._creator.suspects, timeout=self._timeout
        )
        self._remover = Remover(self._containers, timeout=self._timeout)
        marks, command_ending = Marks(instance), CommandEnding(self.client)
        self._leftovers = Leftovers(self.client, command_ending, marks)
        self._executor = Executor(
            self._containers, command_ending, self._ending.ended, timeout=self._timeout, new_mark=marks.new
        )
        self._terminals = Terminals(self.client, marks.new)
        self._cpu: dict[str, stats.CpuReading] = {}
        self._closed = asyncio.Event()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connections are made when they are needed, so an engine that is away does not matter here."""
        await self.client.open()
        await self._look_up()

    async def close(self) -> None:
        """Containers and their networks stay; watchers end. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        await self._leftovers.close()
        await self._terminals.close()
        await self._creator.close()
        await self._networks.close()
        await self.client.close()

    async def ping(self, timeout: float = 5.0) -> None:
        """A list and an inspect: with its containerd gone the engine answers `_ping` and lists at once, and hangs on this.

        :raises RuntimeUnavailable:
        """
        with translated():
            async with asyncio.timeout(timeout):
                listed = await self.client.call(
                    "GET", "containers/json", params={"limit": "1", "all": "1"}, timeout=timeout
                )
                for entry in listed.data[:1]:
                    try:
                        await self.client.call("GET", f"containers/{text(dig(entry, 'Id'))}/json", timeout=timeout)
                    except DockerError as exc:
                        if exc.status != 404:  # it was removed in between
                            raise

    async def _look_up(self) -> None:
        if self._elsewhere is not None:
            await self._elsewhere.look_up()

    # --- verbs --------------------------------------------------------------------------------------------------------

    async def create(self, spec: FlowSpec, progress: Progress | None = None) -> Observation:
        try:
            return await self._creator.create(
                spec, partial(self._body, spec), progress, own_network=self._settings.network
            )
        except BaseException:
            self._networks.sweep_soon()
            raise

    def _body(self, spec: FlowSpec, network: str | None, attempt: str) -> dict[str, Any]:
        return container_body(
            spec,
            network=network,
            attempt=attempt,
            sockets_dir=self._sockets_dir,
            state_dir=self._state_dir,
            sockets_host_dir=self._settings.sockets_host_dir,
            state_host_dir=self._settings.state_host_dir,
            elsewhere=self._elsewhere is not None,
        )

    async def start(self, id: str) -> Observation:
        return await self._containers.with_handle(id, self._starter.start)

    async def stop(self, id: str, *, signal: str | None = None, timeout: float = 10.0) -> Observation:
        return await self._containers.with_handle(id, partial(self._stop, signal=signal, grace=timeout))

    async def _stop(self, handle: Handle, signal: str | None, grace: float) -> Observation:
        return await self._ending.stop(handle, signal, grace)

    async def kill(self, id: str, signal: str = "SIGKILL") -> Observation:
        return await self._containers.with_handle(id, partial(self._ending.kill, signal=signal))

    async def pause(self, id: str) -> Observation:
        return await self._containers.with_handle(id, self._ending.pause)

    async def unpause(self, id: str) -> Observation:
        return await self._containers.with_handle(id, self._ending.unpause)

    async def remove(self, id: str, *, force: bool = False) -> None:
        try:
            handle = await self._containers.find(id)
        except ContainerNotFound:
            return
        await self._remover.remove(handle, force=force)
        self._cpu.pop(handle.runtime_id, None)
        self._creator.suspects.pop(handle.runtime_id, None)
        self._networks.sweep_soon()

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        return await self._containers.with_handle(
            id, partial(self._executor.run, command=command, timeout=timeout, limit=limit)
        )

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        opened = (
            partial(self._terminals.main, cols=cols, rows=rows)
            if main
            else partial(self._terminals.shell, command=command, cols=cols, rows=rows)
        )
        return await self._containers.with_handle(id, opened)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def inspect(self, id: str) -> Observation:
        return await self._containers.inspect(id)

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        """At most 4 MiB of them."""
        if tail <= 0:
            await self._containers.inspect(id)
            return []
        return await self._containers.with_handle(id, partial(self._logs, tail=tail, since=since))

    async def _logs(self, handle: Handle, tail: int, since: datetime | None) -> list[LogLine]:
        with translated(Subject(handle.flow_id)):
            return await last_lines(self.client, handle, tail=tail, since=since)

    async def follow_logs(self, id: str, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
        handle = await self._containers.find(id)
        try:
            async with aclosing(follow(self.client, handle, after=after)) as batches:
                async for lines in batches:
                    yield lines
        except ContainerNotFound:
            # The next call looks for the container that may have taken its place.
            self._containers.forget_container(handle.runtime_id)
            raise

    async def stats(self, id: str) -> ResourceUsage:
        return await self._containers.with_handle(id, self._stats)

    async def _stats(self, handle: Handle) -> ResourceUsage:
        params = {"stream": "0", "one-shot": "1"}

        async def once() -> Answer:
            path = f"containers/{handle.runtime_id}/stats"
            return await self.client.call("GET", path, params=params, timeout=READ_SECONDS)

        with translated(Subject(handle.flow_id)):
            try:
                data = (await repeat(once, within=READ_SECONDS)).data
            except DockerError as exc:
                if exc.status in (404, 409) and "not running" in exc.message:
                    return stats.NOTHING
                raise
        used = stats.usage(data, self._cpu.get(handle.runtime_id))
        if (reading := stats.cpu_reading(data)) is not None:
            self._cpu[handle.runtime_id] = reading
        return used

    async def glance(self) -> list[Observation]:
        flows = await self._containers.all(trusting=True)
        self._leftovers.end_once(self._containers.execs)
        return flows

    async def list(self) -> list[Observation]:
        await self._look_up()
        await self._networks.join_once()
        flows = await self._containers.all()
        self._leftovers.end_once(self._containers.execs)
        return flows

    def watch(self) -> AsyncIterator[RuntimeEvent]:
        # Somebody else may have removed the last flow of a network.
        removed = self._networks.sweep_soon
        return Feed(self.client, self._containers, self._ending, self.ping, self._closed, removed).events()
