"""The script that makes `.venv` ready, with its installs faked: what it does when, not what pip does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, working in an empty checkout."""
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.delenv("PYTHON", raising=False)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("one==1\n")
    return module


@pytest.fixture
def commands(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """`commands()` are those that were run so far; `commands(fail=...)` makes matching ones fail from then on."""
    seen: list[list[str]] = []
    failing: list[Callable[[list[str]], bool]] = []
    real = bootstrap.run

    def run(command: list[str], **options: Any) -> str:
        if "-c" in command and bootstrap.PROBE in command:
            return str(real(command))
        seen.append(command)
        if any(fails(command) for fails in failing):
            raise bootstrap.Refused("made to fail")
        if "venv" in command:
            python = bootstrap.VENV / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.unlink(missing_ok=True)
            python.symlink_to(sys.executable)
        return ""

    def control(fail: Callable[[list[str]], bool] | None = None) -> list[list[str]]:
        if fail is not None:
            failing.append(fail)
        return seen

    monkeypatch.setattr(bootstrap, "run", run)
    return control


def installs(seen: list[list[str]]) -> list[list[str]]:
    return [command for command in seen if "install" in command]


def test_it_can_be_read_by_an_old_interpreter_that_then_finds_a_newer_one() -> None:
    # In an interpreter of its own: inside a big test process CPython 3.11's parser can fail with a SystemError.
    code = "import ast, sys; ast.parse(open(sys.argv[1]).read(), feature_version=(3, 7))"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_second_call_with_nothing_changed_does_nothing(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]]
) -> None:
    assert bootstrap.main(["run"]) == 0
    assert installs(commands())
    commands().clear()
    assert bootstrap.main(["run"]) == 0
    assert commands() == []


def test_a_dev_environment_is_good_for_running_too_but_not_the_other_way_round(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]]
) -> None:
    assert bootstrap.main(["run"]) == 0
    assert not bootstrap.ready("dev")
    assert bootstrap.main(["dev"]) == 0
    (bootstrap.VENV / ".ready-run").unlink()
    assert bootstrap.ready("run")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_wanted_installs_again_into_the_same_environment(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]], name: str, tmp_path: Path
) -> None:
    bootstrap.main(["run"])
    commands().clear()
    (tmp_path / name).write_text("changed\n")
    assert bootstrap.main(["run"]) == 0
    assert installs(commands())
    assert not [command for command in commands() if "venv" in command]


def test_an_environment_that_was_copied_from_another_checkout_is_made_anew(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]]
) -> None:
    bootstrap.main(["run"])
    (bootstrap.VENV / ".ready-run").write_text("/somewhere/else\nabc")
    commands().clear()
    assert bootstrap.main(["run"]) == 0
    assert [command for command in commands() if "venv" in command]


def test_a_failed_install_leaves_no_stamp_and_says_why(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    commands(fail=lambda command: "install" in command)
    assert bootstrap.main(["dev"]) == 1
    assert not (bootstrap.VENV / ".ready-dev").exists()
    assert "made to fail" in capsys.readouterr().err


def test_every_install_is_held_to_the_pins(bootstrap: ModuleType, commands: Callable[..., list[list[str]]]) -> None:
    bootstrap.main(["dev"])
    assert len(installs(commands())) == 2
    for command in installs(commands()):
        assert command[command.index("-c") + 1] == str(bootstrap.ROOT / "constraints.txt")


def test_without_ensurepip_the_interpreters_own_pip_fills_a_bare_environment(
    bootstrap: ModuleType, commands: Callable[..., list[list[str]]]
) -> None:
    commands(fail=lambda command: "venv" in command and "--without-pip" not in command)
    commands(fail=lambda command: command[0] == bootstrap.venv_python() and "pip" in command)
    assert bootstrap.main(["run"]) == 0
    assert all("--python" in command for command in installs(commands()))


def test_where_nothing_works_the_message_names_the_package_to_install(
    bootstrap: ModuleType,
    commands: Callable[..., list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bootstrap, "debian_as_root", lambda: False)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    commands(fail=lambda command: "venv" in command)
    assert bootstrap.main(["run"]) == 1
    assert "apt-get install python3-venv" in capsys.readouterr().err
    assert not bootstrap.VENV.exists()


def test_a_chosen_interpreter_that_does_not_fit_is_refused_not_replaced(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHON", "/no/such/python")
    assert bootstrap.main(["run"]) == 1
    assert "PYTHON=/no/such/python" in capsys.readouterr().err


def test_an_unknown_word_is_a_usage_error(bootstrap: ModuleType) -> None:
    assert bootstrap.main(["everything"]) == 2
