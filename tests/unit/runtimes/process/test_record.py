"""Records: whole or not at all, and for the owner's eyes alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flow_manager.runtimes.base import FlowSpec, Mount, PortBinding
from flow_manager.runtimes.process import record
from flow_manager.runtimes.process.record import Record, Run

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SPEC = FlowSpec(
    id="abcdefghijkl",
    name="reports",
    container_name="reports",
    tenant="default",
    instance="test",
    image="local",
    command=("sleep", "60"),
    environment={"PASSWORD": "hush"},
    mounts=(Mount(Path("/data"), "/data", True),),
    ports=(PortBinding(80, "tcp", 0),),
    labels={"team": "blue"},
    memory=64,
    cpus=0.5,
    channel_folder=Path("/run/x"),
)


def test_what_is_saved_comes_back_the_same(tmp_path: Path) -> None:
    kept = Record(SPEC, NOW, "running", Run(7, 12345, "boot", NOW, {"80/tcp": 30000}), exit_code=None, error="why")
    record.save(tmp_path, kept)
    assert record.load(tmp_path) == kept


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    record.save(tmp_path, Record(SPEC, NOW))
    assert (tmp_path / record.RECORD_FILE).stat().st_mode & 0o777 == 0o600


def test_a_save_that_fails_leaves_the_old_one_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Record(SPEC, NOW)
    record.save(tmp_path, old)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        record.save(tmp_path, Record(SPEC, NOW, "exited"))
    assert record.load(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == [record.RECORD_FILE]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec": {}}', "\x00" * 100])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / record.RECORD_FILE).write_text(text)
    with pytest.raises(ValueError):
        record.load(tmp_path)
