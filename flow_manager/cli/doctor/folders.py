"""The state folder (mode, lock, store) and the folder of the sockets."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sqlite3
import stat
import tempfile
from pathlib import Path

from flow_manager.cli.doctor.finding import Finding, ok, problem, warning
from flow_manager.settings.models import MAX_SOCKETS_DIR_BYTES

STORE_FILE = "flow-manager.db"
# Less than this and the store's next transaction may be its last.
LITTLE_SPACE = 200 * 1024 * 1024
LOCK_FILE = "lock"


def state(folder: Path) -> list[Finding]:
    about = "state folder"
    if not folder.exists():
        return [_could_be_made(about, folder, "--state-dir")]
    holder = lock_holder(folder)
    found = [*_usable(about, folder, "--state-dir"), *_closed(about, folder, running=holder is not None)]
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        found.append(warning(about, f"{free // 2**20} MiB are free", "make space, or lower activity.keep"))
    if holder is not None:
        found.append(ok(about, f"in use by a running flow-manager (process {holder})"))
    return [*found, *store(folder / STORE_FILE)]


def lock_holder(folder: Path) -> str | None:
    """The process that holds the folder's lock, None when nobody does."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(handle)
    return None


def store(file: Path) -> list[Finding]:
    """Read-only: a look must neither make the store nor bring its schema forward."""
    about = "store"
    if not file.exists():
        return [ok(about, "none yet; it is made at the first start")]
    mend = f"restore {file} from a backup, or move it away to begin anew"
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=2)
    except sqlite3.Error as exc:
        return [problem(about, f"can't be opened: {exc}", mend)]
    try:
        answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        version = (
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            if "alembic_version" in tables
            else None
        )
    except sqlite3.Error as exc:
        return [problem(about, f"can't be read: {exc}", mend)]
    finally:
        connection.close()
    if answer != "ok":
        return [problem(about, f"damaged: {answer}", mend)]
    if version is None:
        return [
            problem(about, f"{file} is a database, but not this program's", "move it away, or give another --state-dir")
        ]
    return [ok(about, f"sound, schema {version[0]}")]


def sockets(folder: Path, *, running: bool = False) -> list[Finding]:
    about = "sockets folder"
    size = len(os.fsencode(folder))
    if size > MAX_SOCKETS_DIR_BYTES:
        return [
            problem(about, f"{folder} has {size} bytes, {MAX_SOCKETS_DIR_BYTES} are allowed", "a shorter --sockets-dir")
        ]
    if not folder.exists():
        return [_could_be_made(about, folder, "--sockets-dir")]
    found = [*_usable(about, folder, "--sockets-dir"), *_closed(about, folder, running=running)]
    if any(finding.level == "problem" for finding in found):
        return found
    return [*found, _takes_sockets(about, folder)]


def _takes_sockets(about: str, folder: Path) -> Finding:
    """Some file systems (vfat, several network and shared folders) know no sockets."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place, socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{place}/s")
    except OSError as exc:
        return problem(
            about,
            f"{folder} takes no sockets ({exc.strerror})",
            "give a --sockets-dir on a local file system, such as /run/flow-manager",
        )
    return ok(about, f"{folder} takes sockets")


def _could_be_made(about: str, folder: Path, flag: str) -> Finding:
    above = next(parent for parent in folder.parents if parent.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return ok(about, f"{folder} is made at the first start")
    return problem(about, f"{folder} doesn't exist, and {above} can't be written", f"make it, or give another {flag}")


def _usable(about: str, folder: Path, flag: str) -> list[Finding]:
    if not folder.is_dir():
        return [problem(about, f"{folder} is no folder", f"give another {flag}")]
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [problem(about, f"{folder} can't be written by this user", f"chown it, or give another {flag}")]
    return [ok(about, f"{folder} can be written")]


def _closed(about: str, folder: Path, *, running: bool) -> list[Finding]:
    """The service closes its folders when it starts: one that is open only matters while it runs."""
    found = folder.stat()
    if found.st_uid != os.getuid():
        return [
            problem(
                about,
                f"{folder} belongs to another user (uid {found.st_uid})",
                "run as that user, or give another folder",
            )
        ]
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077 and running:
        return [warning(about, f"{folder} is open to other users (mode {mode:o})", f"chmod 700 {folder}")]
    return []
