"""A flow's code is copied whole or not at all, and nothing from outside its folder comes along."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from flow_manager.containers import code_copy
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
    monkeypatch.setattr(code_copy, "MAX_ENTRIES", 3)
    with pytest.raises(InvalidRequest):
        await store.put("aaaaaaaaaaaa", source)
    monkeypatch.setattr(code_copy, "MAX_ENTRIES", 100)
    monkeypatch.setattr(code_copy, "MAX_BYTES", 5)
    with pytest.raises(InvalidRequest):
        await store.put("aaaaaaaaaaaa", source)


async def test_removing_what_is_gone_is_fine(store: CodeStore, source: Path) -> None:
    await store.put("aaaaaaaaaaaa", source)
    await store.remove("aaaaaaaaaaaa")
    await store.remove("aaaaaaaaaaaa")
    assert not store.folder("aaaaaaaaaaaa").exists()


# --- archives ---------------------------------------------------------------------------------------------------------


def packed(path: Path, *members: tuple[str, str, str], mode: str = "w:gz") -> Path:
    """`members`: (kind, name, content or target)."""
    kinds = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE,
             "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}  # fmt: skip
    with tarfile.open(path, mode) as archive:
        for kind, name, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kinds[kind], 0o4755
            if kind == "file":
                member.size = len(content)
            else:
                member.linkname = content
            archive.addfile(member, io.BytesIO(content.encode()) if kind == "file" else None)
    return path


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")]
)
async def test_an_archive_is_unpacked(store: CodeStore, tmp_path: Path, suffix: str, mode: str) -> None:
    source = packed(
        tmp_path / f"code{suffix}",
        ("file", "./main.py", "print(1)"),
        ("folder", "lib", ""),
        ("file", "lib/deep/er/a.py", "a = 1"),
        ("link", "alias.py", "lib/deep/../deep/er/a.py"),
        mode=mode,
    )
    target = await store.put("aaaaaaaaaaaa", source)
    found = sorted(str(p.relative_to(target)) for p in target.rglob("*"))
    assert found == ["alias.py", "lib", "lib/deep", "lib/deep/er", "lib/deep/er/a.py", "main.py"]
    assert (target / "alias.py").read_text() == "a = 1"
    assert (target / "main.py").stat().st_mode & 0o7777 == 0o755  # no set-user-id bit comes along


@pytest.mark.parametrize(
    "members",
    [
        [("file", "/etc/cron.d/x", "bad")],
        [("file", "../x", "bad")],
        [("file", "a/../../x", "bad")],
        [("link", "x", "/etc/passwd")],
        [("link", "x", "../outside")],
        [("link", "a", "."), ("file", "a/x", "through a link")],
        [("file", "a/x", "through a link"), ("link", "a", ".")],
        [("link", "a", ".."), ("link", "a/x", "y")],
        [("link", "sub/l2", ".."), ("link", "l1", "sub/l2/../../outside")],
        [("link", "a", "b"), ("link", "b", "a")],
        [("file", "x", "1"), ("hard", "y", "x")],
        [("hard", "y", "/etc/passwd")],
        [("device", "null", "")],
        [("pipe", "p", "")],
        [("file", "x", "1"), ("file", "x", "2")],
        [("file", "x", "1"), ("link", "x", "y")],
        [("file", "x", "1"), ("file", "x/y", "2")],
    ],
)
async def test_an_archive_that_leads_out_or_says_two_things_is_refused(
    store: CodeStore, tmp_path: Path, members: list[tuple[str, str, str]]
) -> None:
    (tmp_path / "outside").write_text("secret")
    with pytest.raises(PathNotAllowed):
        await store.put("aaaaaaaaaaaa", packed(tmp_path / "code.tar", *members, mode="w"))
    assert list((tmp_path / "state" / "code").iterdir()) == []
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["code.tar", "outside", "state"]
        or (tmp_path / "source").exists()
    )


async def test_an_archive_that_grows_beyond_all_measure_is_refused(store: CodeStore, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 100 * 1024 * 1024
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InvalidRequest, match="100 times"):
        await store.put("aaaaaaaaaaaa", bomb)
    assert list((tmp_path / "state" / "code").iterdir()) == []


async def test_folders_that_names_imply_are_counted(
    store: CodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_copy, "MAX_ENTRIES", 20)
    with pytest.raises(InvalidRequest, match="20 entries"):
        await store.put("aaaaaaaaaaaa", packed(tmp_path / "deep.tar", ("file", "/".join("a" * 30), "x"), mode="w"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(40)])
async def test_what_is_no_archive_is_refused_as_that(store: CodeStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "code.tar.gz").write_bytes(content)
    with pytest.raises(InvalidRequest, match="can't be read"):
        await store.put("aaaaaaaaaaaa", tmp_path / "code.tar.gz")


async def test_a_header_that_wants_all_memory_is_refused(store: CodeStore, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024**3
    (tmp_path / "code.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InvalidRequest, match="can't be read"):
        await store.put("aaaaaaaaaaaa", tmp_path / "code.tar")


class Killed(BaseException):
    """The manager is gone: not an exception that anything handles."""


class Blade:
    """Lets so many changes of the file system happen, and of the removal that comes next the first half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
        self.left = changes
        self._rename, self._rmtree = Path.rename, shutil.rmtree
        monkeypatch.setattr(Path, "rename", lambda path, target: self.rename(path, target))
        monkeypatch.setattr(shutil, "rmtree", self.rmtree)

    def rename(self, path: Path, target: Path) -> Path:
        self._count()
        return self._rename(path, target)

    def rmtree(self, path: Path, **_: object) -> None:
        try:
            self._count()
        except Killed:
            for child in list(path.glob("*"))[:1]:
                child.unlink()
            raise
        self._rmtree(path)

    def _count(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


def version(folder: Path) -> str | None:
    """Which code that is; all of it."""
    if not folder.exists():
        return None
    found = sorted(child.read_text() for child in folder.iterdir())
    assert len(found) == 2 and found[0] == found[1], f"half of {found}"
    return found[0]


def of_version(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("changes", range(8))
@pytest.mark.parametrize("what", ["update", "update that fails", "rollback", "rollback that fails"])
async def test_a_kill_between_any_two_steps_leaves_whole_code_and_a_whole_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, changes: int
) -> None:
    id, root = "aaaaaaaaaaaa", tmp_path / "code"
    before = CodeStore(root)
    await before.put(id, of_version(tmp_path / "1", "one"))
    await before.swap(id, await before.stage(id, of_version(tmp_path / "2", "two")))
    await before.confirm(id)
    with monkeypatch.context() as patched:
        blade = Blade(patched, changes)
        over = False
        try:
            if what.startswith("rollback"):
                staged = await before.stage_old(id)
            else:
                staged = await before.stage(id, of_version(tmp_path / "3", "three"))
            await before.swap(id, staged)
            await (before.undo(id) if what.endswith("fails") else before.confirm(id))
            over = True
        except Killed:
            assert blade.left == 0

    after = CodeStore(root)
    await after.sweep()
    if after.unfinished(id):
        await after.undo(id)
    assert [path.name for path in root.iterdir() if path.name not in (id, f".{id}.old")] == []
    now, old = version(after.folder(id)), version(root / f".{id}.old")
    if over:
        done = {"update": ("three", "two"), "rollback": ("one", "two")}
        assert (now, old) == done.get(what, ("two", "one"))
    elif what == "rollback":
        assert (now, old) == ("two", "one") or (now, old) == ("one", "two")
    elif what == "rollback that fails":
        assert (now, old) == ("two", "one")
    else:
        # What the update before had kept is gone only once this one was seen to work.
        assert (now, old) in {("two", "one"), ("two", None), ("three", "two")}
