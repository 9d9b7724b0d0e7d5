"""The service's own image without any registry, as the Dockerfile's last stage would make it.

The root is this machine's Python and the packages of the environment that runs this; what the image says of itself (ENV,
VOLUME, EXPOSE, HEALTHCHECK, ENTRYPOINT, CMD …) is read from the Dockerfile, so that a test of it is a test of that, too.

    .venv/bin/python scripts/service_image.py [NAME]       in the engine of DOCKER_HOST
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import engine_api
import images

NAME = "flow-manager-test/service:1"
ROOT = Path(__file__).resolve().parent.parent
HOME = "opt/flow-manager"
PACKAGES = ("flow_manager", "flow_sdk")
# Instructions of a Dockerfile that engine 20.10 takes with an import (docker import --change). Not STOPSIGNAL.
TAKEN = frozenset({"ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR", "USER"})
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?[^;]*(?:;(.*))?")


def ensure(host: str, name: str = NAME) -> None:
    """Make it anew in the engine at `host`: the code may have changed.

    :raises ImageNotMade, EngineError:
    """
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            _environment(tar, images.fill_python_root(tar))
        file.seek(0)
        repository, _, tag = name.rpartition(":")
        parameters = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": changes()}
        chunks: Iterator[bytes] = iter(lambda: file.read(images.CHUNK), b"")
        engine_api.request(host, "POST", "/images/create", params=parameters, stream=chunks)


def changes(dockerfile: Path = ROOT / "Dockerfile") -> list[str]:
    """The last stage's instructions, one a line; `$PATH` is what the base image here has."""
    text = dockerfile.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    taken = [line for line in lines[last:] if line.split(" ", 1)[0] in TAKEN]
    return [line.replace("$PATH", images.PATH) for line in taken]


def _environment(tar: tarfile.TarFile, libraries: set[Path]) -> None:
    """A virtual environment at /opt/flow-manager, as the Dockerfile's. `libraries`: those that are there already."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter, _ = images.python()
    site = f"{HOME}/lib/{version}/site-packages"
    for found in _distributions():
        for file in found.files or ():
            if file.parts[0] == ".." or "__pycache__" in file.parts or file.suffix == ".pth":
                continue  # programs, compiled code, and the pointer to an editable checkout
            path = Path(str(found.locate_file(file)))
            tar.add(path, f"{site}/{file}", filter=images.as_root)
            if ".so" in file.suffixes:
                images.add_libraries(tar, path, libraries)
    for package in PACKAGES:
        tar.add(ROOT / package, f"{site}/{package}", filter=_source)
    images.add_bytes(
        tar, f"{HOME}/pyvenv.cfg", f"home = {interpreter.parent}\ninclude-system-site-packages = false\n".encode()
    )
    for link in ("python", "python3"):
        images.add_link(tar, f"{HOME}/bin/{link}", str(interpreter))
    program = f"#!/{HOME}/bin/python3\nimport sys\nfrom flow_manager.cli.main import main\nsys.exit(main())\n"
    images.add_bytes(tar, f"{HOME}/bin/flow-manager", program.encode(), mode=0o755)


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """flow-manager with its extra `fast`, and all that these need, as far as they are installed here.

    Its own needs are read from the checkout: what an editable install says of itself may be older.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["fast"]]
    waiting, known = ["flow-manager", *(_needed(need) or "" for need in needs)], set()
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in known:
            continue
        known.add(key)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if key in ("flow-manager", *(_needed(need) for need in needs)):
                raise images.ImageNotMade(f"{name} is not installed: make bootstrap-dev") from None
            continue  # meant for another platform or version: a marker said so
        yield found
        if key != "flow-manager":
            waiting += [need for line in found.requires or () if (need := _needed(line)) is not None]


def _needed(requirement: str) -> str | None:
    """The name in a requirement; None for one of an extra."""
    match = _REQUIREMENT.match(requirement)
    return None if match is None or "extra" in (match[2] or "") else match[1]


def _source(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in info.name else images.as_root(info)


def main() -> int:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    name = sys.argv[1] if len(sys.argv) > 1 else NAME
    try:
        ensure(host, name)
    except (images.ImageNotMade, engine_api.EngineError) as exc:
        print(f"service_image: {exc}", file=sys.stderr)
        return 1
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
