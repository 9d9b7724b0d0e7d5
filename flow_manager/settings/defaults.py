"""Folders that are chosen when no setting names them (wire contract, section 9)."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from flow_manager.settings.models import MAX_SOCKETS_DIR_BYTES

APPLICATION = "flow-manager"
# The root user's place for sockets; a system service's runtime folder.
SYSTEM_RUNTIME = Path("/run")


class NoDefault(Exception):
    """No folder could be chosen; the message says which setting to give."""


def state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/flow-manager`, else `~/.local/state/flow-manager`.

    :raises NoDefault: without either.
    """
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path in it is invalid and is to be ignored.
    if base.startswith("/"):
        return Path(base) / APPLICATION
    home = environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home) / ".local" / "state" / APPLICATION
    raise NoDefault("neither XDG_STATE_HOME nor HOME is set: give --state-dir")


def sockets_dir(
    environ: Mapping[str, str], *, cwd: Path, uid: int, run: Path = SYSTEM_RUNTIME
) -> tuple[Path, list[str]]:
    """The first folder that fits, and a note for each that would have been taken but is too long for a socket's path.

    :raises NoDefault: when all are too long.
    """
    notes: list[str] = []
    for candidate in _candidates(environ, cwd, uid, run):
        size = len(os.fsencode(candidate))
        if size <= MAX_SOCKETS_DIR_BYTES:
            return candidate, notes
        notes.append(f"sockets_dir: {candidate} has {size} bytes, {MAX_SOCKETS_DIR_BYTES} are allowed: not used")
    raise NoDefault("no default folder for the sockets is short enough: give --sockets-dir")


def _candidates(environ: Mapping[str, str], cwd: Path, uid: int, run: Path) -> Iterator[Path]:
    if is_checkout(cwd):
        yield cwd.absolute() / "sockets"
    if uid == 0 and os.access(run, os.W_OK):
        yield run / APPLICATION
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        yield Path(runtime) / APPLICATION
    yield Path("/tmp") / f"{APPLICATION}-{uid}"  # noqa: S108 - made 0700 and its owner is checked when it is opened


def is_checkout(folder: Path) -> bool:
    """True in the top folder of this project's own source."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return project.get("project", {}).get("name") == APPLICATION and (folder / "sockets").is_dir()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        return False
