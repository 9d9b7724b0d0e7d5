"""Which flow a Host header means: an exact table, made anew when the registry changes."""

from __future__ import annotations

from collections.abc import Iterable

from flow_manager.contract.principal import DEFAULT_TENANT
from flow_manager.proxy.parser import Refused
from flow_manager.proxy.watched import FlowTable, WatchedFlow
from flow_manager.util.hosts import parse_authority

# Spellings (case, port, trailing dot) of known names that are remembered; strangers' spellings can't fill more.
MAX_SPELLINGS = 20_000


class Routes:
    """`<name>.<domain>` for each domain, and every flow's own hosts. A name that `<name>.<domain>` gives can't be taken by another
    flow's `hosts`; of two tenants' flows with one name only the default tenant's is served by it, otherwise neither is."""

    def __init__(self, table: FlowTable, domains: Iterable[str]) -> None:
        self._table = table
        self._domains = tuple(domains)
        self._generation: int | None = None
        self._names: dict[str, WatchedFlow] = {}
        self._spellings: dict[bytes, WatchedFlow] = {}

    def find(self, authority: bytes) -> WatchedFlow | None:
        """The flow, or None when nobody has that name. :raises Refused: it is no host name at all."""
        if self._generation != self._table.generation:
            self._build()
        flow = self._spellings.get(authority)
        if flow is None:
            flow = self._names.get(host_name(authority))
            if flow is not None and len(self._spellings) < MAX_SPELLINGS:
                self._spellings[authority] = flow
        return flow

    def _build(self) -> None:
        self._generation = self._table.generation
        self._spellings = {}
        watchers = list(self._table.watchers())
        owners: dict[str, WatchedFlow | None] = {}
        for watcher in watchers:
            first = owners.setdefault(watcher.name, watcher)
            if first is not watcher and (first is None or first.tenant != DEFAULT_TENANT):
                owners[watcher.name] = watcher if watcher.tenant == DEFAULT_TENANT else None
        names: dict[str, WatchedFlow] = {}
        for domain in self._domains:
            for name, owner in owners.items():
                if owner is not None:
                    names[f"{name}.{domain}"] = owner
        for watcher in watchers:
            for host in watcher.hosts:
                label, _, domain = host.lower().partition(".")
                if domain not in self._domains or label not in owners:
                    names.setdefault(host.lower(), watcher)
        self._names = names


def host_name(authority: bytes) -> str:
    """Lower-case, without port and trailing dot. :raises Refused:"""
    parsed = parse_authority(authority.decode("latin-1"))
    if parsed is None or ".." in parsed.name or parsed.name.startswith("."):
        raise Refused(400, "bad_host", "the Host header is not a name and perhaps a port")
    return parsed.name
