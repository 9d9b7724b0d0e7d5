"""One request on its way through a handler, what a route is, and what is kept of it all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.pve.access import Identity
from tests.pve.cluster import Cluster
from tests.pve.schema import Param


@dataclass(slots=True)
class Call:
    cluster: Cluster
    who: Identity
    params: dict[str, Any]
    """Verified, and as their types; those of the path too."""
    request: web.Request | None = None
    total: int | None = None
    """Beside the data, where a list comes in pages."""

    @property
    def node(self) -> str:
        return str(self.params["node"])

    @property
    def vmid(self) -> int:
        return int(self.params["vmid"])

    def need(self, path: str, *privileges: str, any: bool = False) -> None:
        self.cluster.access.check(self.who, path, privileges, any=any)

    def may(self, path: str, *privileges: str, any: bool = False) -> bool:
        return self.cluster.access.has(self.who, path, privileges, any=any)


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Need:
    """Privileges on a path, `{vmid}` and such filled in from the call; with `any`, one of them is enough."""

    path: str
    privileges: tuple[str, ...]
    any: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str
    params: Mapping[str, Param]
    handler: Handler
    need: Need | None = None
    tokens: bool = True
    proxied: bool = True
    """To the node that it names."""
    world: bool = False
    """Without any login."""
    since: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.template}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request with its answer. `endpoint` is its route (`GET /nodes/{node}/lxc`), "" when there is none."""

    method: str
    path: str
    params: Mapping[str, Any]
    status: int
    reason: str
    body: Any
    endpoint: str = ""
    who: str = ""
    path_params: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
