"""All flows of this manager, and how a client's word for one is understood."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.principal import Principal
from flow_manager.errors import ContainerNotFound, InvalidRequest

MIN_DOCKER_PREFIX = 12
_HEX = re.compile(r"[0-9a-f]{12,64}\Z")


class FlowTable:
    """Flows by id and by name in their tenant. No I/O."""

    def __init__(self, default_kind: str) -> None:
        self._by_id: dict[str, FlowEntry] = {}
        self._by_name: dict[tuple[str, str], FlowEntry] = {}
        self._default_kind = default_kind

    def __iter__(self) -> Iterator[FlowEntry]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, entry: FlowEntry) -> None:
        self._by_id[entry.id] = entry
        self._by_name[entry.record.tenant, entry.record.name] = entry

    def discard(self, entry: FlowEntry) -> None:
        self._by_id.pop(entry.id, None)
        key = (entry.record.tenant, entry.record.name)
        if self._by_name.get(key) is entry:
            del self._by_name[key]

    def get(self, flow_id: str) -> FlowEntry | None:
        return self._by_id.get(flow_id)

    def named(self, tenant: str, name: str) -> FlowEntry | None:
        return self._by_name.get((tenant, name))

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


def _is_prefix(own: str, wanted: str) -> bool:
    return _HEX.match(wanted) is not None and _HEX.match(own) is not None and own.startswith(wanted)
