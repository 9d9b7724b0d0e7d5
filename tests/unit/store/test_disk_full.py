from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from flow_manager.errors import DiskFull, Internal
from flow_manager.store import faults, meta
from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore

Draft = Callable[..., ActivityDraft]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small tmpfs")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no tmpfs here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def fill(store: SqlStore, draft: Draft) -> list[int]:
    """Append until the disk is full; the cursors that were acknowledged."""
    acknowledged: list[int] = []
    with pytest.raises(DiskFull, match="full"):
        for _ in range(2000):
            stored = await store.activity.append([draft(message="x" * 900)] * 5)
            acknowledged += [item.entry.cursor for item in stored]
    return acknowledged


async def test_on_a_full_disk_writes_say_so_reads_go_on_and_space_heals(small_disk: Path, draft: Draft) -> None:
    ballast = small_disk / "ballast"
    async with SqlStore(small_disk / "flow.db") as store:
        ballast.write_bytes(b"x" * 512 * 1024)
        acknowledged = await fill(store, draft)
        with pytest.raises(OSError, match="No space"), (small_disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(b"x" * 4096)
        # The log of the failed transaction has room for a few pages yet: small writes may go on until it is used up.
        with pytest.raises(DiskFull):
            for _ in range(1000):
                await store._writer.write(lambda connection: meta.put(connection, meta.PROBE, "0"))
        with pytest.raises(DiskFull):
            await store.ping()
        assert [item.entry.cursor for item in await store.activity.read(limit=10_000)] == acknowledged
        ballast.unlink()
        (small_disk / "rest").unlink()
        await store.ping()
        (entry,) = await store.activity.append([draft()])
        assert entry.entry.cursor == acknowledged[-1] + 1
    async with SqlStore(small_disk / "flow.db") as store:
        assert await store.activity.head() == entry.entry.cursor


async def test_closing_on_a_full_disk_ends(small_disk: Path, draft: Draft) -> None:
    async with SqlStore(small_disk / "flow.db") as store:
        await fill(store, draft)


@pytest.fixture
async def bounded(path: Path) -> AsyncIterator[SqlStore]:
    """A file that SQLite itself refuses to let grow: the same error without a full disk, for any user."""
    async with SqlStore(path) as store:
        await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 40"))
        yield store


async def test_a_file_that_may_not_grow_is_a_full_disk(bounded: SqlStore, draft: Draft) -> None:
    acknowledged = await fill(bounded, draft)
    with pytest.raises(DiskFull):
        await bounded.activity.append([draft(message="x" * 9000)])
    assert [item.entry.cursor for item in await bounded.activity.read(limit=10_000)] == acknowledged
    await bounded._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 4000"))
    (entry,) = await bounded.activity.append([draft()])
    assert entry.entry.cursor == acknowledged[-1] + 1


def error(code: int, name: str) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError("disk I/O error")
    made.sqlite_errorcode = code
    made.sqlite_errorname = name
    return made


def test_a_fault_of_the_disk_is_internal_with_an_id_for_the_log(tmp_path: Path) -> None:
    told = faults.translate(error(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"), tmp_path / "x.db")
    assert isinstance(told, Internal)
    assert told.details["reason"] == "SQLITE_IOERR_FSYNC"
    assert told.details["error_id"].startswith("err-")


def test_an_io_error_on_a_full_disk_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: type("State", (), {"f_bavail": 0, "f_frsize": 4096}))
    told = faults.translate(error(sqlite3.SQLITE_IOERR_SHMSIZE, "SQLITE_IOERR_SHMSIZE"), tmp_path / "x.db")
    assert isinstance(told, DiskFull)
