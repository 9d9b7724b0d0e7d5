"""Which flows a flow needs, in which order, and for how long together. Pure: a graph of ids and policies.

A dependency is named by id or by name in the tenant of the one that needs it; it may be on another runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


def _targets(at: Node, resolve: Resolve) -> Iterator[Node]:
    for dependency in at.needs:
        found = resolve(at, dependency.container)
        if found is not None:
            yield found


def needed(node: Node, resolve: Resolve) -> list[Node]:
    """Everything that `node` needs, itself left out, each once, in the order in which to wake it.

    What a name leads nowhere from is left out: the wake says so when it comes to it. A cycle is walked once.
    """
    order: list[Node] = []
    seen = {node.id}
    # Not recursive: a chain of flows may be longer than the interpreter's stack is deep.
    path = [(node, _targets(node, resolve))]
    while path:
        at, targets = path[-1]
        found = next((target for target in targets if target.id not in seen), None)
        if found is not None:
            seen.add(found.id)
            path.append((found, _targets(found, resolve)))
        else:
            path.pop()
            if path:
                order.append(at)
    return order


def budget(node: Node, resolve: Resolve) -> float:
    """Seconds that the whole wake may take: each unique flow's own wake_timeout."""
    return node.wake_timeout + sum(found.wake_timeout for found in needed(node, resolve))


def find_cycle(node: Node, resolve: Resolve) -> list[Node] | None:
    """The path from `node` back to itself, or the one that it leads into: [a, b, a]. None when there is none."""
    done: set[str] = set()
    path = [(node, _targets(node, resolve))]
    on_path = {node.id}
    while path:
        at, targets = path[-1]
        found = next((target for target in targets if target.id not in done), None)
        if found is None:
            path.pop()
            on_path.discard(at.id)
            done.add(at.id)
        elif found.id in on_path:
            nodes = [step for step, _ in path]
            first = next(index for index, step in enumerate(nodes) if step.id == found.id)
            return [*nodes[first:], found]
        else:
            path.append((found, _targets(found, resolve)))
            on_path.add(found.id)
    return None


def in_words(cycle: Iterable[Node]) -> str:
    return " → ".join(node.name for node in cycle)
