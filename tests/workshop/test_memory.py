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
needs_memory = pytest.mark.skipif(os.geteuid() != 0 or not memory.room(), reason="no place in memory here")


def mounts(place: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [mount for line in lines if (mount := line.split()[1]).startswith(f"{place}/")]


@needs_memory
def test_a_folder_is_gone_with_its_process_and_those_of_killed_ones_before_the_next(tmp_path: Path) -> None:
    killed = tmp_path / f"{memory.PREFIX}{NOBODY}"
    alive = tmp_path / f"{memory.PREFIX}{os.getpid()}"
    for left in (killed, alive):
        left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", killed], check=True)
    (killed / "pytest").mkdir()
    script = "import memory, pathlib, sys; made = memory.folder(pathlib.Path(sys.argv[1])); (made / 'x').touch(); print(made)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == [alive] and mounts(tmp_path) == []


def test_there_is_none_without_room_or_where_nothing_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.folder(tmp_path / "nowhere") is None
    monkeypatch.setattr(memory, "SHARED", tmp_path / "nowhere")
    assert memory.shared() is None
    monkeypatch.setattr(memory, "ROOM", 2**60)
    monkeypatch.setattr(memory, "SHARED", tmp_path)
    assert memory.shared() is None and memory.folder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@needs_memory
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
