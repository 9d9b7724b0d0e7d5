"""Write constraints.txt: the exact version of every package that a full install brings, from a clean venv.

Only `name==version` lines: no address of a registry, no path. `make lock` runs it with the oldest supported Python, whose
set of packages covers the newer ones. `--check` only proves that what pyproject.toml asks for is pinned, and as it allows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from bootstrap import BUILD_TOOLS, run

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"
# The installers themselves come with the venv, and the project is what is being locked.
NOT_LOCKED = {"pip", "setuptools", "wheel", "flow-manager"}
HEADER = "# Exact versions of everything that an install brings. Made by `make lock`; don't edit by hand.\n"


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def freeze(python: Path) -> list[str]:
    listing = json.loads(run([str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]))
    packages = sorted((normal(item["name"]), item["version"]) for item in listing)
    return [f"{name}=={version}" for name, version in packages if name not in NOT_LOCKED]


def write() -> str:
    with tempfile.TemporaryDirectory(prefix="flow-manager-lock-") as folder:
        run([sys.executable, "-m", "venv", folder])
        python = Path(folder) / "bin" / "python"
        run([str(python), "-m", "pip", "install", "--quiet", "--no-input", *BUILD_TOOLS, f"{ROOT}[dev]"])
        lines = freeze(python)
    PINS.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return f"constraints.txt: {len(lines)} packages pinned"


def pins() -> dict[str, str]:
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def findings() -> list[str]:
    """What is wrong with constraints.txt, in words."""
    import tomllib

    from packaging.requirements import Requirement  # a dependency of the tools in the dev extra

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pinned, wrong = pins(), []
    for requirement in map(Requirement, wanted):
        name = normal(requirement.name)
        if name in NOT_LOCKED:
            continue
        if name not in pinned:
            wrong.append(f"{name} is not pinned: run `make lock`")
        elif not requirement.specifier.contains(pinned[name], prereleases=True):
            wrong.append(f"{name}=={pinned[name]} is not {requirement.specifier}: run `make lock`")
    return wrong


def main(arguments: list[str]) -> int:
    if arguments != ["--check"]:
        print(write())
        return 0
    wrong = findings()
    print("\n".join(wrong) or "every dependency is pinned")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
