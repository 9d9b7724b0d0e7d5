from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_manager.errors import Internal, SettingsRefused, ShuttingDown
from flow_manager.store import faults
from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore

Draft = Callable[..., ActivityDraft]


async def test_a_fresh_file_and_its_folder_are_closed_to_other_users(path: Path) -> None:
    old = os.umask(0)
    try:
        async with SqlStore(path):
            files = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    assert len(files) == 3  # the log and its index are there while it is open
    assert set(files.values()) == {0o600}


async def test_a_file_that_others_could_read_is_closed_at_open(path: Path) -> None:
    async with SqlStore(path):
        pass
    path.chmod(0o644)
    async with SqlStore(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_closing_leaves_one_file_and_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    async with SqlStore(path) as store:
        await store.ping()
        assert len(set(threading.enumerate()) - before) == 2
    assert set(threading.enumerate()) == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


async def test_closing_twice_and_closing_what_never_opened_are_harmless(path: Path) -> None:
    store = SqlStore(path)
    await store.close()
    await store.open()
    await store.close()
    await store.close()


async def test_a_closed_store_says_so(path: Path, draft: Draft) -> None:
    async with SqlStore(path) as store:
        pass
    with pytest.raises(ShuttingDown):
        await store.activity.append([draft()])
    with pytest.raises(ShuttingDown):
        await store.ping()


def test_opening_an_up_to_date_file_is_quick_and_imports_no_alembic(path: Path) -> None:
    async def make() -> None:
        async with SqlStore(path):
            pass

    asyncio.run(make())
    code = (
        "import asyncio, sys, time, pathlib\n"
        "from flow_manager.store.sql import SqlStore\n"
        "async def main():\n"
        "    async with SqlStore(pathlib.Path(sys.argv[1])): pass\n"
        "begun = time.perf_counter()\n"
        "asyncio.run(main())\n"
        "print(time.perf_counter() - begun)\n"
        "assert not [name for name in sys.modules if name.startswith('alembic')]\n"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stderr == ""  # no warning at exit either
    assert float(run.stdout) < 1.0  # some 3 ms; the bound only catches an alembic that comes back by another name


@pytest.mark.parametrize("content", [b"hello, I am no database\n" * 100, b"SQLite format 3\x00" + b"\xff" * 4080])
async def test_a_file_that_is_no_database_is_refused_with_the_remedy_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    before = set(threading.enumerate())
    with pytest.raises(SettingsRefused, match="move it away"):
        await SqlStore(path).open()
    assert set(threading.enumerate()) == before
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE flows (id TEXT)")
    connection.close()
    with pytest.raises(SettingsRefused, match="another program's"):
        await SqlStore(path).open()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("flows",)]
    connection.close()


async def test_a_newer_programs_file_is_refused(path: Path) -> None:
    async with SqlStore(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsRefused, match=r"newer flow-manager \(schema 9999"):
        await SqlStore(path).open()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
async def test_what_is_no_regular_file_is_refused_without_waiting(path: Path, make: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    make(path)
    before = set(threading.enumerate())
    async with asyncio.timeout(5):
        with pytest.raises(SettingsRefused):
            await SqlStore(path).open()
    assert set(threading.enumerate()) == before


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(SettingsRefused, match="state_dir"):
        await SqlStore(tmp_path / "state" / "x.db").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_an_unreadable_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o000)
    with pytest.raises(SettingsRefused, match="right to read and write"):
        await SqlStore(path).open()


async def test_permission_denied_names_the_remedy(tmp_path: Path) -> None:
    said = str(faults.refusal(PermissionError(13, "Permission denied"), tmp_path / "x.db"))
    assert "Permission denied" in said and "right to read and write" in said


async def test_a_locked_file_fails_in_bounded_time_and_works_again(
    path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.store.session.BUSY_TIMEOUT_SECONDS", 0.05)
    async with SqlStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Internal, match="lock") as caught:
            await store.activity.append([draft()])
        assert caught.value.details["error_id"].startswith("err-")
        with pytest.raises(Internal):
            await store.ping()
        assert await store.activity.read(limit=10) == []  # a reader waits for no writer
        other.execute("ROLLBACK")
        other.close()
        assert [item.entry.cursor for item in await store.activity.append([draft()])] == [1]
        await store.ping()


async def test_damage_in_the_middle_of_the_file_is_an_answer_not_a_crash(path: Path, draft: Draft) -> None:
    async with SqlStore(path) as store:
        await store.activity.append([draft(message="x" * 900)] * 200)
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096 * 20)
    async with SqlStore(path) as store:
        with pytest.raises(Internal, match="damaged"):
            await store.activity.read(limit=1000)
        assert await store.flows.all() == []  # what isn't damaged can still be read


async def test_a_cancelled_caller_leaves_no_transaction_open(store: SqlStore, draft: Draft) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await store.activity.append([draft()] * 2000)
    (after,) = await store.activity.append([draft()])
    stored = await store.activity.read(limit=5000)
    # All of the cancelled batch or nothing of it, and the next one after it.
    assert len(stored) in (1, 2001)
    assert after.entry.cursor == len(stored)


async def test_a_fault_of_ours_never_repeats_the_value_that_could_not_be_stored(store: SqlStore, draft: Draft) -> None:
    with pytest.raises(Internal) as caught:
        await store.activity.append([draft(message="hunter2 \ud800")])
    assert "hunter2" not in caught.value.message + str(caught.value.details)
    assert await store.activity.read(limit=1) == []
    await store.activity.append([draft()])  # no transaction was left open


async def test_many_at_once_share_the_file_without_an_error(store: SqlStore, draft: Draft) -> None:
    begun = time.perf_counter()
    await asyncio.gather(
        *(store.activity.append([draft(message=str(n))]) for n in range(100)),
        *(store.activity.read(limit=10) for _ in range(100)),
        *(store.activity.prune(older_than=None, keep=1000) for _ in range(10)),
    )
    print(f"210 calls at once: {time.perf_counter() - begun:.3f} s")
    stored = await store.activity.read(limit=1000)
    assert [item.entry.cursor for item in stored] == list(range(1, 101))
    assert {item.entry.message for item in stored} == {str(n) for n in range(100)}
