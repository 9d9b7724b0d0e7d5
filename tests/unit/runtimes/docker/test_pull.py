from __future__ import annotations

import pytest

from flow_manager.runtimes.docker.pull import LineSplitter, PullProgress, split_reference


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("alpine", ("alpine", "latest")),
        ("alpine:3", ("alpine", "3")),
        ("lab/alpine", ("lab/alpine", "latest")),
        ("host.example:5000/lab/alpine", ("host.example:5000/lab/alpine", "latest")),
        ("host.example:5000/lab/alpine:3", ("host.example:5000/lab/alpine", "3")),
        ("alpine@sha256:" + "a" * 64, ("alpine", "sha256:" + "a" * 64)),
        ("alpine:3@sha256:" + "a" * 64, ("alpine", "sha256:" + "a" * 64)),
        ("host.example:5000/a@sha256:" + "a" * 64, ("host.example:5000/a", "sha256:" + "a" * 64)),
    ],
)
def test_a_reference_always_has_a_tag_or_a_digest(image: str, wanted: tuple[str, str]) -> None:
    assert split_reference(image) == wanted


def line(id: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    return {"id": id, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_layers_are_one_figure() -> None:
    progress = PullProgress("alpine:3")
    assert progress.words() == "pulling alpine:3"
    progress.take(line("a", "Downloading", 50, 100))
    progress.take(line("b", "Downloading", 0, 100))
    assert progress.words() == "pulling alpine:3: 25 %"
    progress.take(line("a", "Download complete"))
    assert progress.words() == "pulling alpine:3: 50 %"


def test_a_repeated_line_is_no_progress() -> None:
    progress = PullProgress("alpine:3")
    assert progress.take(line("a", "Downloading", 50, 100))
    assert not progress.take(line("a", "Downloading", 50, 100))
    assert progress.take(line("a", "Downloading", 51, 100))
    assert progress.take(line("a", "Verifying Checksum"))
    assert not progress.take(line("a", "Verifying Checksum"))


@pytest.mark.parametrize("odd", [None, [], "text", {"progressDetail": None}, {"id": 7, "status": None}])
def test_odd_lines_are_survived(odd: object) -> None:
    PullProgress("x").take(odd)


def test_lines_come_whole_however_they_were_cut() -> None:
    for size in (1, 2, 3, 7, 100):
        splitter = LineSplitter()
        raw = b'{"a":1}\r\n\n{"b":2}\n{"c"'
        found = [part for at in range(0, len(raw), size) for part in splitter.feed(raw[at : at + size])]
        assert found == [b'{"a":1}', b'{"b":2}']


def test_a_line_without_end_does_not_take_all_memory() -> None:
    splitter = LineSplitter()
    for _ in range(20):
        assert list(splitter.feed(b"x" * 1_000_000)) == []
    assert len(splitter._rest) <= LineSplitter.MAX_LINE + 1_000_000
