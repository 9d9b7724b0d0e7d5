"""The networks on which the flows of a tenant find each other: made when first needed, gone when nobody is left."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from aiodocker.exceptions import DockerError

from flow_manager.errors import FlowManagerError, RuntimeRefused
from flow_manager.runtimes.base import LABEL_INSTANCE, LABEL_TENANT, FlowSpec
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.errors import KIND, RAW, Subject, translated
from flow_manager.runtimes.docker.observe import dig, text
from flow_manager.runtimes.docker.spec import endpoint, network_name

# Making a bridge takes 0.1 s; on an engine that starts containers on every core, seconds.
CHANGE_SECONDS = 30.0
# An empty network stays this long, so that a lone flow that is made and removed over and over does not pay for it each time.
LINGER_SECONDS = 10.0
# At the end a sweep must not hold up the shutdown.
CLOSE_SECONDS = 3.0


class Networks:
    """One network a tenant. Making and removing exclude each other, and a network that is about to be used is kept."""

    def __init__(self, containers: Containers, own_container: str | None = None) -> None:
        """`own_container`: the one that this manager runs in, which joins them all to reach the flows."""
        self._containers = containers
        self._own_container = own_container
        self._joined = False
        self._lock = asyncio.Lock()
        self._there: set[str] = set()
        self._wanted: Counter[str] = Counter()
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def needed(self, spec: FlowSpec) -> AsyncIterator[str]:
        """The tenant's network; it is not swept away while the block lasts (a container in the making does not count yet)."""
        name = network_name(spec.instance, spec.tenant)
        self._wanted[name] += 1
        try:
            await self.ensure(name, spec.tenant)
            yield name
        finally:
            self._wanted[name] -= 1

    async def ensure(self, name: str, tenant: str, *, anew: bool = False) -> None:
        """Make it unless it is there. `anew`: do not trust what was seen earlier. :raises RuntimeFailure:"""
        async with self._lock:
            if name in self._there and not anew:
                return
            body = {
                "Name": name,
                "Driver": "bridge",
                "CheckDuplicate": True,  # engines before 25 otherwise make a second one of the same name
                "Labels": {LABEL_INSTANCE: self._containers.instance, LABEL_TENANT: tenant},
            }
            with translated(Subject(name=name)):
                try:
                    await self._containers.client.call("POST", "networks/create", body=body, timeout=CHANGE_SECONDS)
                except DockerError as exc:
                    if exc.status != 409:
                        raise
            await self._join(name)
            self._there.add(name)

    async def join_once(self) -> None:
        """After a start: join the networks that an earlier manager, in an earlier container, had made and joined.

        :raises RuntimeUnavailable:
        """
        if self._joined or self._own_container is None:
            return
        for network in await self._own_networks():
            await self._join(text(dig(network, "Id")))
        self._joined = True

    async def _join(self, network: str) -> None:
        await self._change(network, "connect", {"Container": self._own_container})

    async def _change(self, network: str, what: str, body: dict[str, Any]) -> None:
        """Best effort: it is on it already, or this process runs on another engine than the one that it drives."""
        if self._own_container is None:
            return
        try:
            path = f"networks/{quote(network, safe='')}/{what}"
            await self._containers.client.call("POST", path, body=body, timeout=CHANGE_SECONDS)
        except RAW:
            pass

    async def _own_networks(self) -> list[Any]:
        """The engine's entries of this instance's networks. :raises RuntimeUnavailable:"""
        filters = json.dumps({"label": [f"{LABEL_INSTANCE}={self._containers.instance}"]})
        with translated():
            found = await self._containers.read("networks", params={"filters": filters})
        return found if isinstance(found, list) else []

    async def check(self, spec: FlowSpec) -> None:
        """See that the further networks exist: engine 20.10 joins a container to one that does not, and then can't start it.

        :raises RuntimeRefused: with `network`.
        """
        for network in spec.networks:
            try:
                with translated(Subject(spec.id)):
                    await self._containers.read(f"networks/{quote(network, safe='')}")
            except RuntimeRefused as exc:
                raise RuntimeRefused(f"no network '{network}'", kind=KIND, network=network) from exc

    async def connect(self, spec: FlowSpec, runtime_id: str) -> None:
        """Join the further networks (API 1.41 takes only one at create). :raises RuntimeRefused: one does not exist."""
        for network in spec.networks:
            body = {"Container": runtime_id, "EndpointConfig": endpoint(spec)}
            with translated(Subject(spec.id)):
                path = f"networks/{quote(network, safe='')}/connect"
                await self._containers.client.call("POST", path, body=body, timeout=CHANGE_SECONDS)

    def sweep_soon(self) -> None:
        """After a while, remove the networks that no flow has any more."""
        if not self._closed and (self._sweeper is None or self._sweeper.done()):
            self._sweeper = asyncio.create_task(self._sweep_later(), name="docker-network-sweep")

    async def close(self) -> None:
        """Sweep now instead of later, and no more afterwards."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
            self._sweeper = None
        elif not self._there:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.sweep()
        except (TimeoutError, FlowManagerError):
            pass  # best effort: the next sweep, of any later run, finds it by its label

    async def _sweep_later(self) -> None:
        await asyncio.sleep(LINGER_SECONDS)
        try:
            await self.sweep()
        except FlowManagerError:
            pass

    async def sweep(self) -> None:
        """Remove this instance's networks without a container, stopped ones counted. :raises RuntimeUnavailable:"""
        async with self._lock:
            networks = await self._own_networks()
            used = {name for entry in await self._containers.entries({}) for name in _networks_of(entry)}
            for network in networks:
                name = text(dig(network, "Name"))
                if name in used or self._wanted[name] > 0:
                    continue
                self._there.discard(name)
                await self._change(name, "disconnect", {"Container": self._own_container, "Force": True})
                try:
                    path = f"networks/{text(dig(network, 'Id'))}"
                    await self._containers.client.call("DELETE", path, timeout=CHANGE_SECONDS)
                except RAW:
                    continue  # somebody else's container is on it, or it is gone


def _networks_of(entry: Any) -> set[str]:
    joined = dig(entry, "NetworkSettings", "Networks")
    return {*(joined if isinstance(joined, dict) else ()), text(dig(entry, "HostConfig", "NetworkMode"))}
