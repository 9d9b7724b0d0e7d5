"""Make `.venv` ready: `bootstrap.py run` (the service and its fast extra) or `bootstrap.py dev` (tests and checks too).

Standard library only, and nothing newer than Python 3.7: whatever `python3` a machine has starts this file, which then
looks for an interpreter that is new enough. A second call with nothing changed does nothing.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)
EXTRAS = {"run": "fast", "dev": "dev"}
# Needed to build the project itself; installed first so that the pins hold for them too.
BUILD_TOOLS = ("hatchling", "editables")
CANDIDATES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python")
PROBE = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.executable)"
INSTALL_SECONDS = 900


class Refused(Exception):
    """Something that only the user can mend; its text says how."""


def say(text):
    print("· " + text, flush=True)


def run(command, **options):
    """Run quietly; a failure raises Refused with everything the command printed."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            **options,
        )
    except OSError as error:
        raise Refused(f"{command[0]}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(
            "{} took longer than {} s\n{}".format(" ".join(command), INSTALL_SECONDS, error.output)
        ) from error
    if done.returncode:
        raise Refused("{} failed with {}:\n{}".format(" ".join(command), done.returncode, done.stdout))
    return done.stdout


def version_of(python):
    """(version, path of the real interpreter), or None for one that does not run: a pyenv shim may be there and refuse."""
    try:
        lines = run([python, "-c", PROBE]).splitlines()
        return tuple(int(part) for part in lines[0].split(".")), lines[1]
    except (Refused, IndexError, ValueError):
        return None


def interpreters():
    """Suitable interpreters, best first, each once. PYTHON decides alone when it is set."""
    chosen = os.environ.get("PYTHON")
    seen = set()
    for name in [chosen] if chosen else CANDIDATES:
        found = version_of(name)
        if found is None or found[0] < OLDEST:
            if chosen:
                raise Refused("PYTHON={} is not a Python {}.{} or newer".format(chosen, *OLDEST))
            continue
        if os.path.realpath(found[1]) not in seen:
            seen.add(os.path.realpath(found[1]))
            yield found[1]


def venv_python():
    return str(VENV / "bin" / "python")


def clear():
    shutil.rmtree(VENV, ignore_errors=True)


def with_ensurepip(python):
    run([python, "-m", "venv", "--clear", str(VENV)])
    return [venv_python(), "-m", "pip"]


def with_other_pip(python):
    """Debian's python3 has no ensurepip without python3-venv; its own pip (22.3 or newer) can fill a bare venv."""
    run([python, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    pip = [python, "-m", "pip", "--python", venv_python()]
    run([*pip, "--version"])
    return pip


def with_uv(python):
    run(["uv", "venv", "--quiet", "--clear", "--python", python, str(VENV)])
    return ["uv", "pip"]


def debian_as_root():
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get")


def apt_install():
    say("apt-get install python3-venv")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run(["apt-get", "update", "-qq"], env=environment)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3-venv"], env=environment)


def make_venv():
    """A fresh venv and the installer that fills it, by the first way that works here."""
    reasons = []

    def attempt(way, python):
        try:
            installer = way(python)
        except Refused as refusal:
            clear()
            reasons.append(f"{way.__name__}: {refusal}")
            return None
        version = version_of(venv_python())
        say(".venv with Python {}.{}.{}".format(*version[0]) if version else ".venv")
        return installer

    for python in interpreters():
        for way in (with_ensurepip, with_other_pip):
            installer = attempt(way, python)
            if installer:
                return installer
    if shutil.which("uv"):
        installer = attempt(with_uv, os.environ.get("PYTHON") or ">={}.{}".format(*OLDEST))
        if installer:
            return installer
    if debian_as_root():
        apt_install()
        for python in interpreters():
            installer = attempt(with_ensurepip, python)
            if installer:
                return installer
    raise Refused(advice(reasons))


def advice(reasons):
    text = [
        "No Python {}.{} or newer here can make a virtual environment. One of these mends it:".format(*OLDEST),
        "  Debian, Ubuntu:  apt-get install python3-venv",
        "  Fedora:          dnf install python3 python3-pip",
        "  anywhere:        install uv, or set PYTHON=/path/to/python3.11",
    ]
    return "\n".join(text + (["What was tried:", *reasons] if reasons else []))


def installer_of_existing():
    """The installer for a venv that is there already, or None when it can't be used (no interpreter, too old, no pip)."""
    found = version_of(venv_python())
    if found is None or found[0] < OLDEST:
        return None
    for installer in ([venv_python(), "-m", "pip"], [sys.executable, "-m", "pip", "--python", venv_python()]):
        with contextlib.suppress(Refused):
            run([*installer, "--version"])
            return installer
    return ["uv", "pip"] if shutil.which("uv") else None


def stamp_path(kind):
    return VENV / f".ready-{kind}"


def fingerprint():
    """Changes with what would be installed, and with the checkout's place (console scripts carry their venv's path)."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def ready(kind):
    """True when the stamp says so and the interpreter still runs. A dev venv is good for running, too."""
    wanted = f"{ROOT}\n{fingerprint()}"
    return any(read(stamp_path(one)) == wanted for one in {kind, "dev"}) and version_of(venv_python()) is not None


def moved():
    """True for a venv that was made in another folder and copied here: its scripts would run the other one."""
    stamps = [text for text in (read(stamp_path(kind)) for kind in EXTRAS) if text]
    return any(text.splitlines()[0] != str(ROOT) for text in stamps)


def install(installer, *what):
    if installer[0] == "uv":
        command = ["uv", "pip", "install", "--quiet", "--python", venv_python()]
    else:
        command = [*installer, "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    run([*command, "-c", str(ROOT / "constraints.txt"), *what])


def prepare(kind):
    """:raises Refused: with everything that the failing step said."""
    if ready(kind):
        return
    installer = None if moved() else installer_of_existing()
    if installer is None:
        installer = make_venv()
    started = time.monotonic()
    say(f"installing flow-manager[{EXTRAS[kind]}] with pinned versions")
    install(installer, *BUILD_TOOLS)
    install(installer, "--no-build-isolation", "-e", f".[{EXTRAS[kind]}]")
    stamp_path(kind).write_text(f"{ROOT}\n{fingerprint()}", encoding="utf-8")
    say(f"ready in {time.monotonic() - started:.0f} s")


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        print("usage: bootstrap.py run|dev", file=sys.stderr)
        return 2
    # Two makes at the same time would fill one venv twice; the file is only a handle to lock.
    with (ROOT / "pyproject.toml").open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            prepare(arguments[0])
        except Refused as refusal:
            print(refusal, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
