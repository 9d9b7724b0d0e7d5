"""The committed reference is what the code says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flow_manager.contract.events import CLIENT_EVENTS, SERVER_EVENTS
from flow_manager.settings.names import all_settings, dotted

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_reference_has_not_drifted() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_event_setting_verb_and_code_has_its_place(reference: ModuleType) -> None:
    pages = reference.pages()
    assert [name for name in (*CLIENT_EVENTS, *SERVER_EVENTS) if f"`{name}`" not in pages["events.md"]] == []
    assert [path for path, _ in all_settings() if f"`{dotted(path)}`" not in pages["settings.md"]] == []
    for verb in ("serve", "demo", "ps", "create", "rm", "send", "activity", "doctor", "token create"):
        assert f"\n## {verb}\n" in pages["cli.md"]
    assert "`runtime_unavailable`" in pages["errors.md"]
    assert "`container_died`" in pages["activity.md"]


def test_a_drift_is_noticed(reference: ModuleType, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("something else")
    assert reference.main(["--check"]) == 1
    assert "cli.md" in capsys.readouterr().err
