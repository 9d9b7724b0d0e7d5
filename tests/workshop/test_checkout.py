"""What a checkout promises: nothing in it that belongs to one machine or one registry, and files of a size to be read."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flow_manager"
MOST_LINES = 400
# In two pieces, so that this file does not hold what it looks for.
REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "registry.yarnpkg" + ".com")
PRIVATE = re.compile(r"/work" r"/(main|shared)|/opt" r"/(wheels|pypi)|\.pyenv" r"/|/tmp/tmp" r"[.\w]")


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every dotted name that the file imports; `from a import b` counts as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = dotted(path).split(".")
            above = package[: len(package) - node.level + (path.name == "__init__.py")] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def test_no_committed_file_names_a_registry() -> None:
    guilty = [str(path.relative_to(ROOT)) for path in tracked() if any(host in text_of(path) for host in REGISTRIES)]
    assert guilty == []


def test_no_committed_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    guilty = {str(path.relative_to(ROOT)): found[0] for path in tracked() if (found := PRIVATE.search(text_of(path)))}
    assert guilty == {}


def test_constraints_hold_nothing_but_names_and_versions() -> None:
    lines = [line for line in text_of(ROOT / "constraints.txt").splitlines() if not line.startswith("#")]
    assert lines, "constraints.txt is empty"
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][A-Za-z0-9.+!]*", line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names)), "sorted, and each package once"


def test_npm_lock_files_say_what_but_not_from_where() -> None:
    for path in tracked():
        if path.name == "package-lock.json":
            assert '"resolved"' not in text_of(path), path


def test_no_module_is_too_long_to_be_read_in_one_go() -> None:
    long = {dotted(path): lines for path in modules() if (lines := len(text_of(path).splitlines())) > MOST_LINES}
    assert long == {}, "look for the second noun"


def test_every_module_is_imported_by_something() -> None:
    """A file that nobody imports is either dead or a forgotten part."""
    everything = [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    imported = {name for path in everything for name in imports_of(path) if dotted(path) != name}
    scripts = set(re.findall(r'"(flow_manager[\w.]*):\w+"', text_of(ROOT / "pyproject.toml")))
    # alembic finds its revisions by folder; users import `client` and `testing`; `-m` runs __main__.
    free = re.compile(r"flow_manager\.(store\.migrations|testing|client)\b|.*\.__main__$|flow_manager\.app$")
    unused = [path for path in modules() if (name := dotted(path)) not in imported | scripts and not free.match(name)]
    # A program that is run, not imported, is named by its file somewhere else.
    texts = {path: text_of(path) for path in everything}
    orphans = [
        dotted(path)
        for path in unused
        if not any(f'"{path.name}"' in text for other, text in texts.items() if other != path)
    ]
    assert orphans == []


def test_every_package_is_spoken_of_in_the_tests() -> None:
    tests = "\n".join(text_of(path) for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    packages = [dotted(path) for path in PACKAGE.rglob("__init__.py") if any(path.parent.glob("[a-z]*.py"))]
    silent = [name for name in packages if name not in tests and not name.startswith("flow_manager.store.migrations")]
    assert silent == []


def test_every_make_target_of_the_readme_exists_and_help_tells_of_it() -> None:
    makefile = text_of(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    told = set(re.findall(r'echo "make ([a-z]+)', makefile))
    wanted = set(re.findall(r"make ([a-z]+)", text_of(ROOT / "README.md") + text_of(ROOT / "CONTRIBUTING.md")))
    commands = {"demo", "test", "serve", "bench", "check", "fmt", "clean", "lock"}
    assert commands <= targets
    assert commands <= told <= targets
    assert {name for name in wanted if name in told} >= {"demo", "test", "serve", "bench", "check"}


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test\b", text_of(script), re.MULTILINE)
    assert "FLOW_MANAGER_REQUIRE_ENGINE=1" in text_of(script)


def test_compose_publishes_on_loopback_only() -> None:
    compose = text_of(ROOT / "docker-compose.yml")
    ports = re.findall(r'^\s+- "([^"]*:\d+)"$', compose, re.MULTILINE)
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
