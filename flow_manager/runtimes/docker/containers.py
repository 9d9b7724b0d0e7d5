"""The containers of this instance, and those to be adopted, found by their labels and keyed by the flow's id."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from flow_manager.errors import ContainerNotFound
from flow_manager.runtimes.base import (
    CHANNEL_FOLDER_IN_CONTAINER,
    CODE_FOLDER_IN_CONTAINER,
    LABEL_ENABLE,
    LABEL_ID,
    LABEL_INSTANCE,
    Observation,
)
from flow_manager.runtimes.docker.after_the_end import after_the_end
from flow_manager.runtimes.docker.client import Answer, EngineClient
from flow_manager.runtimes.docker.errors import KIND, Subject, translated
from flow_manager.runtimes.docker.glance import agrees
from flow_manager.runtimes.docker.identity import ENABLED, Identity, Judge, is_id, own_name
from flow_manager.runtimes.docker.observe import dig, labels_of, name_of, observe, text, whole
from flow_manager.runtimes.docker.retry import repeat
from flow_manager.runtimes.docker.whereabouts import EngineHost

# A read that takes longer has failed. An inspect takes 2 ms; with all cores starting containers it was seen to take 2 s.
READ_SECONDS = 10.0
# Inspects of a list that are under way at the same time: more only wait in the engine.
LIST_WIDTH = 8
# What the manager mounts itself, maybe by a path that only the engine's host knows.
_MANAGERS_OWN = (CHANNEL_FOLDER_IN_CONTAINER, CODE_FOLDER_IN_CONTAINER)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handle:
    """What never changes about a container, remembered so that a verb is one engine call and not two.

    `volumes`: the host's folders in a flow of ours that clients named, as they really were when it was made.
    """

    flow_id: str
    runtime_id: str
    stop_signal: str
    tty: bool
    network: str
    volumes: tuple[str, ...] = ()


def handle_of(data: Mapping[str, Any], flow_id: str, *, adopted: bool = False) -> Handle:
    return Handle(
        flow_id=flow_id,
        runtime_id=text(data["Id"]),
        stop_signal=text(dig(data, "Config", "StopSignal")) or "SIGTERM",
        tty=dig(data, "Config", "Tty") is True,
        network=text(dig(data, "HostConfig", "NetworkMode")),
        volumes=() if adopted else _volumes_of(data),
    )


def _volumes_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    mounts = [mount for mount in dig(data, "HostConfig", "Mounts") or () if dig(mount, "Type") == "bind"]
    return tuple(text(dig(mount, "Source")) for mount in mounts if dig(mount, "Target") not in _MANAGERS_OWN)


class Containers:
    """Finds and reads. Labels can't change after create, so a remembered id stays right until the container is gone.

    An adopted container may be made anew by whoever made it: then two of them have one flow's id for a while, and the newer
    one counts.
    """

    def __init__(
        self,
        client: EngineClient,
        instance: str,
        *,
        runtime: str = KIND,
        adopts: bool = False,
        declared: tuple[str, ...] = (),
        elsewhere: EngineHost | None = None,
    ) -> None:
        self.client = client
        self.instance = instance
        self.judge = Judge(runtime, instance, adopts, declared)
        self._elsewhere = elsewhere
        self._handles: dict[str, Handle] = {}
        self._flows: dict[str, str] = {}
        self._seen: dict[str, Observation] = {}
        # Those of the newest inspect, by the engine's id of the container; none where none runs.
        self.execs: dict[str, list[str]] = {}

    def read_as(self, data: Mapping[str, Any]) -> Observation:
        """What an inspect's answer says. :raises ValueError: when it is no container of this instance."""
        identity = self.judge.identity(labels_of(data), name_of(data), text(dig(data, "Id")))
        if identity is None:
            raise ValueError("a container of another instance, or of nobody")
        seen = observe(data, identity)
        return seen if self._elsewhere is None else replace(seen, engine_host=self._elsewhere.address)

    def remember(self, data: Mapping[str, Any]) -> Observation:
        """Take in an inspect's answer. :raises ValueError: when it is no container of this instance."""
        seen = self.read_as(data)
        handle = handle_of(data, seen.id, adopted=seen.adopted)
        self._handles[seen.id] = handle
        self._flows[handle.runtime_id] = seen.id
        self._seen[seen.id] = seen
        self.execs.pop(handle.runtime_id, None)
        if execs := data.get("ExecIDs"):
            self.execs[handle.runtime_id] = [text(one) for one in execs]
        return seen

    def ended(self, handle: Handle, told: Any) -> Observation | None:
        """Take in the engine's answer to a `wait` for the container's end. None where only an inspect knows enough."""
        before = self._seen.get(handle.flow_id)
        if before is None or before.runtime_id != handle.runtime_id or (seen := after_the_end(before, told)) is None:
            return None
        self._seen[handle.flow_id] = seen
        self.execs.pop(handle.runtime_id, None)
        return seen

    def forget(self, flow_id: str) -> None:
        self._seen.pop(flow_id, None)
        handle = self._handles.pop(flow_id, None)
        if handle is not None:
            self._flows.pop(handle.runtime_id, None)
            self.execs.pop(handle.runtime_id, None)

    def forget_container(self, runtime_id: str) -> None:
        """That container is gone; one that took its place under the same flow's id is not forgotten."""
        flow_id = self._flows.pop(runtime_id, None)
        handle = self._handles.get(flow_id) if flow_id else None
        if flow_id and handle is not None and handle.runtime_id == runtime_id:
            self.forget(flow_id)

    def flow_of(self, runtime_id: str) -> str | None:
        """The flow whose container this is, as far as it was seen before."""
        return self._flows.get(runtime_id)

    def last_seen(self, flow_id: str) -> Observation | None:
        """What the newest look at it gave, however old it is."""
        return self._seen.get(flow_id)

    def handle(self, flow_id: str) -> Handle | None:
        return self._handles.get(flow_id)

    async def find(self, flow_id: str) -> Handle:
        """:raises ContainerNotFound, RuntimeUnavailable:"""
        handle = self._handles.get(flow_id)
        if handle is None:
            await self._look(flow_id)
            handle = self._handles.get(flow_id)
        if handle is None:
            raise ContainerNotFound(flow_id, kind=KIND)
        return handle

    async def _look(self, flow_id: str) -> Observation:
        for entry in await self.entries({LABEL_ID: flow_id}):
            return await self._inspect(text(dig(entry, "Id")), flow_id)
        entry = _newest_by_flow(await self.adoptable()).get(flow_id)
        if entry is None:
            raise ContainerNotFound(flow_id, kind=KIND)
        return await self._inspect(text(dig(entry, "Id")), flow_id)

    async def inspect(self, flow_id: str) -> Observation:
        """:raises ContainerNotFound, RuntimeUnavailable:"""
        handle = self._handles.get(flow_id)
        if handle is None:
            return await self._look(flow_id)
        try:
            return await self._inspect(handle.runtime_id, flow_id)
        except ContainerNotFound:
            # Made anew under the same flow's id, by another process: looked for once.
            self.forget(flow_id)
            return await self._look(flow_id)

    async def _inspect(self, runtime_id: str, flow_id: str) -> Observation:
        with translated(Subject(flow_id)):
            return self.remember(await self.read(f"containers/{runtime_id}/json"))

    async def observe(self, runtime_id: str) -> Observation:
        """Inspect by the engine's id. :raises ContainerNotFound: also when it is not one of ours."""
        with translated(Subject(runtime_id)):
            data = await self.read(f"containers/{runtime_id}/json")
        try:
            return self.remember(data)
        except ValueError:
            raise ContainerNotFound(runtime_id, kind=KIND) from None

    async def all(self, *, trusting: bool = False) -> list[Observation]:
        """All flows: a list, and an inspect each, since a list does not tell everything. `trusting`: no inspect of those
        whose list entry agrees with what was seen last."""
        own = [(entry, self._identity(entry)) for entry in await self.entries({})]
        ours = {identity.flow_id: entry for entry, identity in own if identity is not None and not identity.adopted}
        # An id that a container of ours has is not given away to one that others made.
        listed = {**_newest_by_flow(await self.adoptable()), **ours}
        width = asyncio.Semaphore(LIST_WIDTH)

        async def one(flow_id: str, entry: Any) -> Observation | None:
            known = self._seen.get(flow_id)
            if trusting and known is not None and agrees(entry, known):
                return known
            async with width:
                try:
                    return await self.observe(text(dig(entry, "Id")))
                except ContainerNotFound:
                    return None  # removed meanwhile

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(flow_id, entry)) for flow_id, entry in listed.items()]
        seen = [flow for task in tasks if (flow := task.result()) is not None]
        there = {text(dig(entry, "Id")) for entry in listed.values()}
        for gone in self._handles.keys() - {flow.id for flow in seen}:
            if self._handles[gone].runtime_id not in there:
                self.forget(gone)
        return seen

    def _identity(self, entry: Any) -> Identity | None:
        labels = dig(entry, "Labels")
        given = labels if isinstance(labels, Mapping) else {}
        return self.judge.identity(given, own_name(dig(entry, "Names")), text(dig(entry, "Id")))

    async def adoptable(self) -> list[tuple[str, Any]]:
        """(flow id, the engine's list entry) of what others made and labelled for us, or settings name, newest first. One a
        container.

        :raises RuntimeUnavailable:
        """
        each = [entry for wanted in self._adoptable_filters() for entry in await self._listed(wanted)]
        found = list({text(dig(entry, "Id")): entry for entry in each}.values())
        found.sort(key=lambda entry: whole(dig(entry, "Created")) or 0, reverse=True)
        judged = [(self._identity(entry), entry) for entry in found]
        return [(identity.flow_id, entry) for identity, entry in judged if identity is not None and identity.adopted]

    async def entries(self, labels: Mapping[str, str]) -> list[Any]:
        """The engine's own list entries of this instance's containers with these labels. :raises RuntimeUnavailable:"""
        wanted = {LABEL_INSTANCE: self.instance, **labels}
        return await self._listed({"label": [f"{name}={value}" for name, value in wanted.items()]})

    def _adoptable_filters(self) -> list[dict[str, list[str]]]:
        """The engine ORs the values of one filter (labels apart) and ANDs the filters: one list for each kind of word."""
        declared = self.judge.declared
        found = [{"label": [f"{LABEL_ENABLE}={ENABLED}"]}] if self.judge.adopts else []
        if declared:
            found.append({"name": [f"^/?{re.escape(word)}$" for word in declared]})
        if ids := [word for word in declared if is_id(word)]:
            found.append({"id": ids})
        return found

    async def _listed(self, filters: Mapping[str, list[str]]) -> list[Any]:
        with translated():
            params = {"all": "1", "filters": json.dumps(filters)}
            data = await self.read("containers/json", params=params)
            if not isinstance(data, list):
                raise ValueError("not a list")
            return data

    async def read(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """A GET, repeated where that is safe. Raises the libraries' errors."""

        async def once() -> Answer:
            return await self.client.call("GET", path, params=params, timeout=READ_SECONDS)

        return (await repeat(once, within=READ_SECONDS)).data

    async def with_handle(self, flow_id: str, act: Callable[[Handle], Awaitable[T]]) -> T:
        """`act` on the flow's container; once more on the one that took its place, when the remembered one is gone.

        Safe for every verb: a container that is not there was not acted upon.
        """
        remembered = self._handles.get(flow_id)
        try:
            return await act(await self.find(flow_id))
        except ContainerNotFound:
            if remembered is None:
                raise
            self.forget(flow_id)
            return await act(await self.find(flow_id))


def _newest_by_flow(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of containers with one flow's id the one made last: while compose replaces a container, the old one is still there."""
    newest: dict[str, Any] = {}
    for flow_id, entry in entries:
        newest.setdefault(flow_id, entry)  # the engine lists the newest first
    return newest
