"""A flow's code is copied whole or not at all, and nothing from outside its folder comes along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flow_manager.containers import code as code_module
from flow_manager.containers.code import CodeStore
from flow_manager.errors import InvalidRequest, PathNotAllowed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text("print(1)")
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o700)
    (folder / "lib" / "a.py").write_text("a = 1")
    (folder / "alias.py").symlink_to("main.py")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "state" / "code")


async def test_a_folder_is_copied_and_readable_for_whoever_runs_in_the_container(
    store: CodeStore, source: Path
) -> None:
    target = await store.put("aaaaaaaaaaaa", source)
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*")) == [
        "alias.py",
        "lib",
        "lib/a.py",
        "main.py",
        "run.sh",
    ]
    assert (target / "main.py").stat().st_mode & 0o777 == 0o644
    assert (target / "run.sh").stat().st_mode & 0o111
    assert target.stat().st_mode & 0o777 == 0o755
    assert (target / "alias.py").readlink() == Path("main.py")


async def test_a_single_file_keeps_its_name(store: CodeStore, source: Path) -> None:
    target = await store.put("aaaaaaaaaaaa", source / "main.py")
    assert [p.name for p in target.iterdir()] == ["main.py"]


@pytest.mark.parametrize("link", ["/etc/passwd", "../outside", "lib/../../outside"])
async def test_a_link_that_leads_out_is_refused_and_nothing_is_left(
    store: CodeStore, source: Path, tmp_path: Path, link: str
) -> None:
    (tmp_path / "outside").write_text("secret")
    (source / "bad").symlink_to(link)
    with pytest.raises(PathNotAllowed):
        await store.put("aaaaaaaaaaaa", source)
    assert list((tmp_path / "state" / "code").iterdir()) == []


async def test_a_pipe_is_refused(store: CodeStore, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(PathNotAllowed):
        await store.put("aaaaaaaaaaaa", source)


async def test_too_much_is_refused_before_it_is_copied(
    store: CodeStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_module, "MAX_ENTRIES", 3)
    with pytest.raises(InvalidRequest):
        await store.put("aaaaaaaaaaaa", source)
    monkeypatch.setattr(code_module, "MAX_ENTRIES", 100)
    monkeypatch.setattr(code_module, "MAX_BYTES", 5)
    with pytest.raises(InvalidRequest):
        await store.put("aaaaaaaaaaaa", source)


async def test_removing_what_is_gone_is_fine(store: CodeStore, source: Path) -> None:
    await store.put("aaaaaaaaaaaa", source)
    await store.remove("aaaaaaaaaaaa")
    await store.remove("aaaaaaaaaaaa")
    assert not store.folder("aaaaaaaaaaaa").exists()
