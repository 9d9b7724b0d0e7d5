from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from flow_manager.errors import SettingsRefused
from flow_manager.store import migrations
from flow_manager.store.base import ActivityDraft
from flow_manager.store.sql import SqlStore
from flow_manager.store.tables import APPLICATION_ID, metadata

Draft = Callable[..., ActivityDraft]


def schema_of(path: Path) -> dict[str, str]:
    """Each table and index, with its words in one spacing and order-insensitive constraints left as they are."""
    connection = sqlite3.connect(path)
    found = {
        name: re.sub(r"[\s\"]+", " ", sql or "")
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master")
    }
    connection.close()
    return {name: re.sub(r" ?([(),]) ?", r"\1", sql).strip() for name, sql in found.items()}


def stamp_as_empty_of_ours(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.commit()
    connection.close()


async def test_the_migrated_schema_is_the_one_of_the_tables(tmp_path: Path) -> None:
    migrated, fresh = tmp_path / "migrated.db", tmp_path / "fresh.db"
    migrations.upgrade(migrated)
    async with SqlStore(fresh):
        pass
    engine = create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    left, right = schema_of(migrated), schema_of(fresh)
    assert left.keys() == right.keys()
    for name in left.keys() - {"alembic_version"}:
        assert left[name] == right[name]
    assert "AUTOINCREMENT" in left["activity"]


def test_steps_are_numbered_without_a_hole_and_named_by_the_rule() -> None:
    scripts = ScriptDirectory.from_config(migrations.alembic_config())
    steps = sorted(scripts.walk_revisions(), key=lambda step: step.revision)
    assert tuple(step.revision for step in steps) == migrations.REVISIONS
    assert scripts.get_heads() == [migrations.HEAD]
    assert list(migrations.REVISIONS) == [f"{n:04}" for n in range(1, len(steps) + 1)]
    for step in steps:
        assert re.fullmatch(rf"r{step.revision}_[a-z0-9_]+\.py", Path(step.path).name)


async def test_an_older_file_is_brought_up_to_date_at_open(path: Path, draft: Draft) -> None:
    stamp_as_empty_of_ours(path)
    async with SqlStore(path) as store:
        assert len(await store.activity.append([draft()])) == 1
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrations.HEAD,)]
    connection.close()


async def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    stamp_as_empty_of_ours(path)
    connection = sqlite3.connect(path)
    # The last table of the step is there already: three were made before it fails.
    connection.execute("CREATE TABLE meta (key TEXT)")
    connection.commit()
    before = schema_of(path)
    connection.close()
    with pytest.raises(SettingsRefused, match="it is as it was"):
        await SqlStore(path).open()
    assert schema_of(path) == before


async def test_a_path_with_a_percent_sign_and_a_space_works(tmp_path: Path) -> None:
    path = tmp_path / "50 %(here)s" / "x.db"
    stamp_as_empty_of_ours(path)
    async with SqlStore(path) as store:
        await store.ping()


async def test_migrating_touches_nobodys_logging(path: Path) -> None:
    root = logging.getLogger()
    other = logging.getLogger("somebody.else")
    before = (root.level, list(root.handlers), other.disabled, logging.getLogger("alembic").level)
    stamp_as_empty_of_ours(path)
    async with SqlStore(path):
        pass
    assert (root.level, list(root.handlers), other.disabled, logging.getLogger("alembic").level) == before


async def test_a_start_that_ended_halfway_left_nothing_half_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.store.schema.HEAD", None)  # the very last statement of making the tables fails
    with pytest.raises(SettingsRefused):
        await SqlStore(path).open()
    assert schema_of(path) == {}
    monkeypatch.undo()
    async with SqlStore(path) as store:
        await store.ping()


async def test_flows_of_the_first_schema_are_all_there_after_the_second_step(path: Path) -> None:
    stamp_as_empty_of_ours(path)
    migrations.upgrade(path, to="0001")
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO flows (id, name, tenant, runtime, config, desired, created_at, phase, adopted)"
        " VALUES ('aaaaaaaaaaaa', 'web', 'default', 'memory', '{}', 'running', 1, 'created', 0)"
    )
    connection.commit()
    connection.close()
    async with SqlStore(path) as store:
        (flow,) = await store.flows.all()
    assert (flow.name, flow.desired, flow.adopted, flow.last_used_at) == ("web", "running", False, None)
