"""Where tests write: in memory, and nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import memory  # scripts/memory.py
import pytest

SCRIPTS = Path(memory.__file__).parent
NOBODY = 2**22 + 1  # no process has such an id: pid_max is at most 2**22


def test_a_folder_is_gone_with_its_process_and_those_of_killed_ones_before_the_next(tmp_path: Path) -> None:
    (tmp_path / f"{memory.PREFIX}{NOBODY}-killed" / "pytest").mkdir(parents=True)
    (tmp_path / f"{memory.PREFIX}{os.getpid()}-alive").mkdir()
    script = "import memory, pathlib, sys; made = memory.folder(pathlib.Path(sys.argv[1])); (made / 'x').touch(); print(made)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert [left.name for left in tmp_path.iterdir()] == [f"{memory.PREFIX}{os.getpid()}-alive"]


def test_there_is_no_place_where_there_is_none_or_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not memory.available(tmp_path / "nowhere")
    monkeypatch.setattr(memory, "ROOM", 2**60)
    assert not memory.available(tmp_path)


@pytest.mark.skipif(not memory.available(), reason="no place in memory here")
@pytest.mark.parametrize("given", [False, True])
def test_a_run_writes_there_unless_it_was_told_where_to(tmp_path: Path, given: bool) -> None:
    said = tmp_path / "said"
    (tmp_path / "test_sample.py").write_text(
        f"import pathlib, tempfile\ndef test_says():\n    pathlib.Path({str(said)!r}).write_text(tempfile.gettempdir())\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FLOW_MANAGER_", "TMPDIR"))
    }
    if given:
        environment["TMPDIR"] = str(tmp_path)
    subprocess.run(
        [sys.executable, "run_tests.py", str(tmp_path), "-q", "-p", "no:cacheprovider"],
        cwd=SCRIPTS,
        env=environment | {"SKIP_NPM": "1"},
        check=True,
        capture_output=True,
        timeout=50,
    )
    assert (said.read_text() == str(tmp_path)) is given
    assert Path(said.read_text()).exists() is given
