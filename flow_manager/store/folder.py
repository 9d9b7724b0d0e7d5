"""The state folder: closed to other users, locked by the one manager that uses it, and named once for all."""

from __future__ import annotations

import os
from pathlib import Path

from flow_manager.errors import SettingsRefused, StateFolderLocked
from flow_manager.util import file_lock
from flow_manager.util.ids import new_flow_id


class StateFolder:
    """Holds the lock from `open` to `close`. Two managers on one folder would both stop, start and delete its flows."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def open(self) -> None:
        """:raises StateFolderLocked: another manager runs here. :raises SettingsRefused: it can't be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsRefused(
                f"state_dir: {self.path} can't be used ({error.strerror}); give another with --state-dir"
            ) from None
        if not file_lock.take(lock):
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StateFolderLocked(
                f"state_dir: {self.path} is used by another flow-manager (process {holder}); "
                "stop that one, or give another folder with --state-dir"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def instance(self, configured: str | None) -> str:
        """This manager's identity: the setting, else what `<state-dir>/instance` says, made at the first start."""
        if configured is not None:
            return configured
        file = self.path / "instance"
        try:
            known = file.read_text().strip()
        except FileNotFoundError:
            known = ""
        if known:
            return known
        made = new_flow_id()
        draft = self.path / "instance.new"
        draft.write_text(f"{made}\n")
        draft.replace(file)
        return made
