"""asyncio keeps only weak references to tasks: one that nobody holds can be collected as garbage in the middle of its work, and
whoever waits for what it was to do waits for ever."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("flow_manager", "flow_sdk")
MAKERS = {"create_task", "ensure_future"}
# Calls that keep what they are given; a task of a `TaskGroup` is held by its group.
KEEPERS = {"append", "add"}
GROUPS = {"group"}


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _makes_a_task(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or _name(node) not in MAKERS:
        return False
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return not (isinstance(owner, ast.Name) and owner.id in GROUPS)


def unheld(source: str) -> Iterator[tuple[int, str]]:
    """Lines whose tasks nobody holds, and why."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and _makes_a_task(node.value):
            yield node.lineno, "its task is dropped"
        if not isinstance(node, ast.Call):
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if _name(node) == "shield" and isinstance(node.args[0], ast.Call):
            yield node.lineno, "only `shield` knows its task: use `util.carried`, or keep it"
        elif _name(node) not in KEEPERS and any(
            _makes_a_task(part) for value in given if not isinstance(value, ast.Lambda) for part in ast.walk(value)
        ):
            yield node.lineno, "its task is handed on without being kept"


def test_every_task_of_the_product_is_held_by_somebody() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {why}"
        for package in PRODUCT
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, why in unheld(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.create_task(work())",
        "loop.create_task(work(), name='x')",
        "await asyncio.shield(work())",
        "await asyncio.shield(asyncio.ensure_future(work()))",
        "await asyncio.wait([asyncio.create_task(one.close()) for one in ones], timeout=1)",
        "run(asyncio.create_task(work()))",
    ],
)
def test_a_task_that_nobody_holds_is_found(source: str) -> None:
    assert list(unheld(f"async def f():\n    {source}"))


@pytest.mark.parametrize(
    "source",
    [
        "task = asyncio.create_task(work())",
        "self._tasks.append(asyncio.create_task(work()))",
        "return loop.create_task(work())",
        "group.create_task(work())",
        "await asyncio.shield(task)",
        "await asyncio.shield(self._ending)",
        "waiting = {asyncio.ensure_future(attempt(way)): way for way in ways}",
    ],
)
def test_a_task_that_somebody_holds_is_no_finding(source: str) -> None:
    assert not list(unheld(f"async def f():\n    {source}"))
