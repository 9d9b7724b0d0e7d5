"""All flows of this manager, and how a word for one is understood: a client's, another flow's, a Host header's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from flow_manager.containers.compose import number_of, project_of, service_of
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.principal import Principal
from flow_manager.errors import ContainerNotFound, InvalidRequest

MIN_DOCKER_PREFIX = 12
_HEX = re.compile(r"[0-9a-f]{12,64}\Z")


class FlowTable:
    """Flows by id, by name in their tenant, by the hosts that they claim, and by compose service. No I/O.

    A flow's config and name change only between `discard` and `add`.
    """

    def __init__(self, default_kind: str) -> None:
        self._by_id: dict[str, FlowEntry] = {}
        self._by_name: dict[tuple[str, str], FlowEntry] = {}
        self._by_host: dict[str, FlowEntry] = {}
        # (tenant, runtime, project, service): a service that is scaled has several.
        self._by_service: dict[tuple[str, str, str, str], list[FlowEntry]] = {}
        self._default_kind = default_kind

    def __iter__(self) -> Iterator[FlowEntry]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, entry: FlowEntry) -> None:
        self._by_id[entry.id] = entry
        self._by_name[entry.record.tenant, entry.record.name] = entry
        for host in entry.config.hosts:
            self._by_host.setdefault(host, entry)
        if (key := _service_key(entry)) is not None:
            self._by_service.setdefault(key, []).append(entry)

    def discard(self, entry: FlowEntry) -> None:
        self._by_id.pop(entry.id, None)
        key = (entry.record.tenant, entry.record.name)
        if self._by_name.get(key) is entry:
            del self._by_name[key]
        for host in entry.config.hosts:
            if self._by_host.get(host) is entry:
                del self._by_host[host]
        service = _service_key(entry)
        if service is not None and entry in (scaled := self._by_service.get(service, [])):
            scaled.remove(entry)
            if not scaled:
                del self._by_service[service]

    def get(self, flow_id: str) -> FlowEntry | None:
        return self._by_id.get(flow_id)

    def named(self, tenant: str, name: str) -> FlowEntry | None:
        return self._by_name.get((tenant, name))

    def serving(self, host: str) -> FlowEntry | None:
        """The flow, of whichever tenant, that claimed this host first."""
        return self._by_host.get(host)

    def names(self, name: str) -> bool:
        """Whether a flow of any tenant has this name."""
        return any(entry.record.name == name for entry in self._by_id.values())

    def meant(self, tenant: str, runtime: str, ref: str, labels: Mapping[str, str]) -> FlowEntry | None:
        """The flow that another one of this tenant and runtime, with these labels, calls `ref`: by id, by name, or, where no
        flow has that name, a service of its own compose project."""
        entry = self._by_id.get(ref)
        if entry is not None and entry.record.tenant == tenant:
            return entry
        entry = self._by_name.get((tenant, ref))
        project = project_of(labels)
        if entry is not None or project is None:
            return entry
        scaled = self._by_service.get((tenant, runtime, project, ref), ())
        return min(scaled, key=lambda one: number_of(one.config.labels), default=None)

    def count(self, tenant: str) -> int:
        return sum(1 for entry in self._by_id.values() if entry.record.tenant == tenant)

    def of(self, principal: Principal) -> list[FlowEntry]:
        """The flows that a principal may see: its tenant's, oldest first."""
        mine = [entry for entry in self._by_id.values() if entry.record.tenant == principal.tenant and entry.visible]
        return sorted(mine, key=lambda entry: (entry.record.created_at, entry.id))

    def resolve(self, principal: Principal, ref: str) -> FlowEntry:
        """The exact id, the exact name, `<runtime>/<runtime id>`, or a Docker id's prefix of at least 12 hex digits.

        :raises ContainerNotFound: also for what the principal may not see, in the same words.
        :raises InvalidRequest: when it fits more than one.
        """
        entry = self._by_id.get(ref)
        if entry is None or entry.record.tenant != principal.tenant or not entry.visible:
            entry = self._by_name.get((principal.tenant, ref))
        if entry is not None and entry.visible:
            return entry
        found = [entry for entry in self.of(principal) if self._is_runtime_id(entry, ref)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = [entry.id for entry in found]
            reason = f"fits {len(found)} flows: {', '.join(ids[:5])}"
            raise InvalidRequest(f"container_id: '{ref}' {reason}", fields=[{"path": "container_id", "reason": reason}])
        raise ContainerNotFound(ref, kind=self._default_kind)

    @staticmethod
    def _is_runtime_id(entry: FlowEntry, ref: str) -> bool:
        own = entry.record.runtime_id
        if own is None:
            return False
        runtime, slash, wanted = ref.partition("/")
        if slash:
            return runtime == entry.record.runtime and (own == wanted or _is_prefix(own, wanted))
        return own == ref or _is_prefix(own, ref)


def _service_key(entry: FlowEntry) -> tuple[str, str, str, str] | None:
    """Compose's word is taken for what others made alone: a client may give its own flow any label."""
    service = service_of(entry.config.labels) if entry.record.adopted else None
    return None if service is None else (entry.record.tenant, entry.record.runtime, *service)


def _is_prefix(own: str, wanted: str) -> bool:
    return _HEX.match(wanted) is not None and _HEX.match(own) is not None and own.startswith(wanted)
