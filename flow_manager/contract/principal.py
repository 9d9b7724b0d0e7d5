"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_TENANT = "default"
READ = "read"
WRITE = "write"
ALL_SCOPES = frozenset({READ, WRITE})


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `scopes`: `read` sees, `write` changes and sends messages."""

    name: str
    tenant: str = DEFAULT_TENANT
    scopes: frozenset[str] = field(default=ALL_SCOPES)

    def may(self, scope: str) -> bool:
        return scope in self.scopes


# An open service (no tokens, loopback only) has this one principal.
LOCAL = Principal("local")
# What the manager does by itself is done in this name.
MANAGER = Principal("manager")
