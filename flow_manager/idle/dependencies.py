"""Which flows a flow needs, in which order, and for how long together. Pure: a graph of ids and policies.

A dependency is named by id or by name in the tenant of the one that needs it; it may be on another runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from flow_manager.contract.models import Dependency, IdlePolicy

Condition = Literal["started", "healthy", "completed"]
DEFAULT_WAKE_TIMEOUT = IdlePolicy().wake_timeout


@dataclass(frozen=True, slots=True)
class Node:
    """One flow: its id, its name for people, and what it needs (`None` where there is no policy)."""

    id: str
    name: str
    policy: IdlePolicy | None

    @property
    def needs(self) -> Iterable[Dependency]:
        return self.policy.depends_on if self.policy is not None else ()

    @property
    def wake_timeout(self) -> float:
        return self.policy.wake_timeout if self.policy is not None else DEFAULT_WAKE_TIMEOUT


# From a node and a name that it gives to the node that is meant; None when there is no such flow.
Resolve = Callable[[Node, str], Node | None]


def needed(node: Node, resolve: Resolve) -> list[Node]:
    """Everything that `node` needs, itself left out, each once, in the order in which to wake it.

    What a name leads nowhere from is left out: the wake says so when it comes to it. A cycle is walked once.
    """
    order: list[Node] = []
    seen = {node.id}

    def walk(at: Node) -> None:
        for dependency in at.needs:
            found = resolve(at, dependency.container)
            if found is not None and found.id not in seen:
                seen.add(found.id)
                walk(found)
                order.append(found)

    walk(node)
    return order


def budget(node: Node, resolve: Resolve) -> float:
    """Seconds that the whole wake may take: each unique flow's own wake_timeout."""
    return node.wake_timeout + sum(found.wake_timeout for found in needed(node, resolve))


def find_cycle(node: Node, resolve: Resolve) -> list[Node] | None:
    """The path from `node` back to itself, or the one that it leads into: [a, b, a]. None when there is none."""
    done: set[str] = set()
    path: list[Node] = []

    def walk(at: Node) -> list[Node] | None:
        for index, before in enumerate(path):
            if before.id == at.id:
                return [*path[index:], at]
        if at.id in done:
            return None
        path.append(at)
        for dependency in at.needs:
            found = resolve(at, dependency.container)
            if found is not None and (cycle := walk(found)) is not None:
                return cycle
        path.pop()
        done.add(at.id)
        return None

    return walk(node)


def in_words(cycle: Iterable[Node]) -> str:
    return " → ".join(node.name for node in cycle)
