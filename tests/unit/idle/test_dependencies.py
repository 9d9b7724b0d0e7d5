from __future__ import annotations

import pytest

from flow_manager.contract.models import Dependency, IdlePolicy
from flow_manager.idle.dependencies import Node, budget, find_cycle, in_words, needed

Graph = dict[str, list[str]]


def nodes(graph: Graph, **timeouts: float) -> dict[str, Node]:
    return {
        name: Node(
            name,
            name,
            IdlePolicy(
                depends_on=[Dependency(container=other) for other in others], wake_timeout=timeouts.get(name, 180)
            ),
        )
        for name, others in graph.items()
    }


def order(graph: Graph, start: str) -> list[str]:
    known = nodes(graph)
    return [node.name for node in needed(known[start], lambda _, ref: known.get(ref))]


def cycle(graph: Graph, start: str) -> str | None:
    known = nodes(graph)
    found = find_cycle(known[start], lambda _, ref: known.get(ref))
    return None if found is None else in_words(found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": []}, []),
        ({"a": ["b"], "b": []}, ["b"]),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, ["d", "b", "c"]),
        ({"a": ["b", "b"], "b": []}, ["b"]),
        ({"a": ["nobody", "b"], "b": []}, ["b"]),
    ],
)
def test_what_a_flow_needs_is_woken_once_each_and_what_that_needs_before_it(graph: Graph, expected: list[str]) -> None:
    assert order(graph, "a") == expected


@pytest.mark.parametrize(
    ("graph", "path"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, None),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, None),
        ({"a": ["a"]}, "a → a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "a → b → c → a"),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b → c → b"),
        ({"a": ["x", "b"], "x": [], "b": ["a"]}, "a → b → a"),
    ],
)
def test_a_cycle_is_found_with_its_path(graph: Graph, path: str | None) -> None:
    assert cycle(graph, "a") == path


def test_the_budget_is_the_sum_over_the_unique_ones() -> None:
    known = nodes({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, a=1, b=10, c=100, d=1000)
    assert budget(known["a"], lambda _, ref: known.get(ref)) == 1111


def test_a_chain_longer_than_the_stack_is_no_trouble() -> None:
    count = 5000
    known = nodes({str(n): [str(n + 1)] for n in range(count)} | {str(count): []})
    assert find_cycle(known["0"], lambda _, ref: known.get(ref)) is None
    assert len(needed(known["0"], lambda _, ref: known.get(ref))) == count
