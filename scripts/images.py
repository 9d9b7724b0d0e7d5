"""The test images, made on this machine without any registry: `docker import` of a root folder put together here.

`flow-manager-test/busybox:1` is one static busybox (2 MB). `flow-manager-test/python:1` is this machine's own Python with
its standard library, socat and busybox: what a flow needs that speaks over its channel. Both have the users root, flow
(1000) and nobody, and no `CMD` that ends by itself.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import engine_api

BUSYBOX = "flow-manager-test/busybox:1"
PYTHON = "flow-manager-test/python:1"
PATH = "/usr/local/bin:/usr/bin:/bin"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nflow:x:1000:1000:flow:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n"
GROUP = "root:x:0:\nflow:x:1000:\nnogroup:x:65534:\n"
# What no flow imports: half of the standard library's bytes.
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
}
CHUNK = 1 << 20


class ImageNotMade(RuntimeError):
    """Something to build an image from is missing on this machine; the message says what."""


def ensure(host: str, *names: str) -> None:
    """Make those of the test images (default: all) that the engine at `host` does not have yet.

    :raises ImageNotMade: when this machine lacks what an image is made from.
    """
    makers = {BUSYBOX: (_busybox_root, '["sh"]'), PYTHON: (_python_root, '["python3"]')}
    for name in names or tuple(makers):
        if _present(host, name):
            continue
        fill, command = makers[name]
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                _base(tar)
                fill(tar)
            file.seek(0)
            repository, _, tag = name.rpartition(":")
            changes = [f"CMD {command}", f"ENV PATH={PATH}"]
            parameters = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": changes}
            engine_api.request(
                host, "POST", "/images/create", params=parameters, stream=iter(lambda: file.read(CHUNK), b"")
            )


def _present(host: str, name: str) -> bool:
    try:
        engine_api.request(host, "GET", f"/images/{name}/json")
    except engine_api.EngineError as exc:
        if exc.status == 404:
            return False
        raise
    return True


def fill_python_root(tar: tarfile.TarFile) -> set[Path]:
    """What the image `PYTHON` holds; gives the libraries among it, which must not come twice."""
    _base(tar)
    return _python_root(tar)


def _base(tar: tarfile.TarFile) -> None:
    for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("run", 0o755)):
        _add_folder(tar, folder, mode)
    add_bytes(tar, "etc/passwd", PASSWD.encode())
    add_bytes(tar, "etc/group", GROUP.encode())


def _busybox_root(tar: tarfile.TarFile) -> None:
    binary = shutil.which("busybox")
    if binary is None or _libraries(Path(binary)):
        install("busybox-static")
        binary = shutil.which("busybox")
    if binary is None or _libraries(Path(binary)):
        raise ImageNotMade("the test images need a static busybox: apt-get install busybox-static")
    tar.add(Path(binary).resolve(), "bin/busybox", filter=as_root)
    listed = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in listed:
        if applet != "busybox":
            add_link(tar, f"bin/{applet}", "busybox")


def _python_root(tar: tarfile.TarFile) -> set[Path]:
    _busybox_root(tar)
    interpreter, library = python()
    added: set[Path] = set()
    tools = [interpreter]
    if shutil.which("socat") is None:
        install("socat")
    if (socat := shutil.which("socat")) is not None:
        tools.append(Path(socat))
    for tool in tools:
        tar.add(tool.resolve(), f"usr/bin/{tool.name}", filter=as_root)
        add_libraries(tar, tool, added)
    # Python finds its standard library from where its executable lies: an interpreter of another prefix keeps its place.
    home = library.parent.parent
    if home != Path("/usr"):
        tar.add(interpreter, str(interpreter).lstrip("/"), filter=as_root)
        add_link(tar, "usr/local/bin/python3", str(interpreter))
        tar.add(library, str(library).lstrip("/"), filter=_lean)
    else:
        if interpreter.name != "python3":
            add_link(tar, "usr/bin/python3", interpreter.name)
        tar.add(library, str(library).lstrip("/"), filter=_lean)
    for extension in library.glob("lib-dynload/*.so"):
        add_libraries(tar, extension, added)
    return added


def python() -> tuple[Path, Path]:
    """A real interpreter (no virtual environment, no shim) and its standard library's folder."""
    asked = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))"
    for candidate in ("/usr/bin/python3", getattr(sys, "_base_executable", sys.executable)):
        if not Path(candidate).exists():
            continue
        done = subprocess.run([candidate, "-I", "-c", asked], capture_output=True, text=True)
        lines = done.stdout.split("\n")
        if done.returncode == 0 and (Path(lines[1]) / "asyncio").is_dir():
            return Path(lines[0]), Path(lines[1])
    raise ImageNotMade("no Python with its whole standard library was found to make the test image from")


def add_libraries(tar: tarfile.TarFile, binary: Path, added: set[Path]) -> None:
    for library in _libraries(binary):
        if library not in added:
            added.add(library)
            tar.add(library.resolve(), str(library).lstrip("/"), filter=as_root)


def _libraries(binary: Path) -> list[Path]:
    """What the dynamic loader would load for it: none for a static program."""
    done = subprocess.run(["ldd", str(binary.resolve())], capture_output=True, text=True)
    return [Path(found) for found in re.findall(r"(?:=>\s*|^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)]


def install(package: str) -> None:
    """With apt-get, as root; elsewhere nothing happens, and whoever needs it says that it is missing."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True)


def _lean(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(info.name).parts
    if LEFT_OUT.intersection(parts) or any(part.startswith("config-") for part in parts) or info.name.endswith(".a"):
        return None
    return as_root(info)


def as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    # A checkout's umask must not decide whether a user other than root can run it.
    info.mode |= 0o555 if info.isdir() or info.mode & 0o100 else 0o444
    return info


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(info)


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def names() -> Iterator[str]:
    yield from (BUSYBOX, PYTHON)


def main() -> int:
    host = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        ensure(host)
    except (ImageNotMade, engine_api.EngineError) as exc:
        print(f"images: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(list(names())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
