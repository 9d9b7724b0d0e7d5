"""The documents: every link leads somewhere, and the decisions are numbered and listed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sockets" / "README.md", ROOT / "tests/pve/README.md"]
)
DECISIONS = ROOT / "docs" / "decisions"
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")


def prose(path: Path) -> str:
    return FENCED.sub("", path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> set[str]:
    """As the usual renderers make them of headings: lower case, punctuation gone, a space a dash; a second one gets -1."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(path), re.MULTILINE):
        words = LINK.sub("", heading).replace("[", "").lower()
        plain = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number, anchor = 0, plain
        while anchor in found:
            number += 1
            anchor = f"{plain}-{number}"
        found.add(anchor)
    return found


def dead_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path))):
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        goal = (path.parent / name).resolve() if name else path
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            yield link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_checkout_leads_somewhere(path: Path) -> None:
    assert list(dead_links(path)) == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One `flow`, two\n\n## Again\n\n## Again\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# Here\n[1](b.md) [2](b.md#one-flow-two) [3](b.md#again-1) [4](#here) [5](https://example.org/x)\n"
        "[6](c.md) [7](b.md#again-2) [8](#there)\n```\n[9](in-code.md)\n```\n"
    )
    assert list(dead_links(page)) == ["c.md", "b.md#again-2", "#there"]


def test_every_decision_has_a_number_of_its_own_and_its_line_in_the_index() -> None:
    pages = sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")
    assert [int(path.name[:4]) for path in pages] == list(range(1, len(pages) + 1))
    titled = [(path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "), path.name) for path in pages]
    assert [title[:5] for title, _ in titled] == [f"{path.name[:4]} " for path in pages]
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \[(.+)\]\((.+)\)$", index, re.MULTILINE) == titled


def test_every_path_of_the_contributors_map_is_there_and_every_room_is_on_it() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| .* \| (.+) \|$", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([\w./*-]+(?:/|\.\w+))`", cell)}
    found = {name: [*ROOT.glob(name), *(ROOT / "flow_manager").glob(name)] for name in named}
    assert [name for name, paths in found.items() if not paths] == []
    rooms = {path.parent for path in (ROOT / "flow_manager").rglob("__init__.py")} - {ROOT / "flow_manager"}
    told = {folder for paths in found.values() for path in paths for folder in (path, *path.parents)}
    small = {"util", "versions"}  # helpers without a subject; the migrations themselves
    assert sorted(str(room.relative_to(ROOT)) for room in rooms - told if room.name not in small) == []
