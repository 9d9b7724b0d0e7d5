"""A flow's code: copied into `<state_dir>/code/<id>/`, where it is mounted at `/flow`. Staged first, then renamed.

Beside it, out of the flow's sight: `.<id>.new-*` what is being staged or thrown away, `.<id>.undo` what an update that isn't
over yet has replaced, `.<id>.old` what the last update has replaced, kept for one rollback; while that is under way `.<id>.back`
and `.<id>.undo-back` are in their places. A manager may be killed between any two calls here, and within the removal of a
folder: so a name is taken from a folder before it is removed, and no name but `.new-*` ever means half of one.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flow_manager.containers.code_archive import is_archive, unpack
from flow_manager.containers.code_copy import FOLDER_MODE, copy_file, copy_folder
from flow_manager.errors import DiskFull, InvalidRequest, PathNotAllowed

T = TypeVar("T")
_ENOSPC = 28


class CodeStore:
    """The folders below `<state_dir>/code`. The calls run in a thread: a copy may take seconds."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, flow_id: str) -> Path:
        return self._root / flow_id

    def can_roll_back(self, flow_id: str) -> bool:
        return self._old(flow_id).is_dir()

    def unfinished(self, flow_id: str) -> bool:
        """An update has replaced the code, and was neither confirmed nor undone."""
        return any(self._undo(flow_id, back=back).is_dir() for back in (False, True))

    async def put(self, flow_id: str, source: Path) -> Path:
        """Stage it and take it as the code of a flow that has none; the flow's folder. :raises: what `stage` raises."""
        staged = await self.stage(flow_id, source)
        await _finished(lambda: staged.rename(self.folder(flow_id)))
        return self.folder(flow_id)

    async def stage(self, flow_id: str, source: Path) -> Path:
        """Copy a file, a folder's content or an archive's (`.tar`, `.tar.gz`, `.tgz`, …) to where it can be renamed from.

        :raises PathNotAllowed: for a link that leads out of it, or anything that is neither file, folder nor link.
        :raises InvalidRequest: past 10,000 entries or 256 MiB, or an archive that can't be read.
        :raises DiskFull:
        """
        return await _finished(lambda: self._stage(flow_id, source))

    async def stage_old(self, flow_id: str) -> Path:
        """What the last update replaced, taken for a rollback; `unstage_old` puts it back.

        :raises InvalidRequest: there is none.
        """
        staged = self._back(flow_id)
        try:
            await _finished(lambda: self._old(flow_id).rename(staged))
        except FileNotFoundError:
            raise InvalidRequest("there is no older code to go back to", fields=[]) from None
        return staged

    async def unstage_old(self, flow_id: str, staged: Path) -> None:
        await _finished(lambda: staged.rename(self._old(flow_id)))

    async def discard(self, staged: Path) -> None:
        await _finished(lambda: shutil.rmtree(staged, ignore_errors=True))

    async def swap(self, flow_id: str, staged: Path) -> None:
        """Take what was staged as the flow's code. To be ended by `confirm` or `undo`; the flow must not run meanwhile."""

        def work() -> None:
            current, undo = self.folder(flow_id), self._undo(flow_id, back=staged == self._back(flow_id))
            self._remove(flow_id, undo)
            if current.exists():
                current.rename(undo)
            staged.rename(current)

        await _finished(work)

    async def confirm(self, flow_id: str) -> None:
        """The new code stays; what it replaced is kept for one rollback."""

        def work() -> None:
            for back in (False, True):
                if self._undo(flow_id, back=back).exists():
                    self._remove(flow_id, self._old(flow_id))
                    self._undo(flow_id, back=back).rename(self._old(flow_id))

        await _finished(work)

    async def undo(self, flow_id: str) -> None:
        """Put back what the swap replaced. What a rollback had swapped in is kept for a later one, all else thrown away."""

        def work() -> None:
            current, undo, undo_back = (
                self.folder(flow_id),
                self._undo(flow_id, back=False),
                self._undo(flow_id, back=True),
            )
            back = undo_back.exists()
            if back and current.exists() and not self._back(flow_id).exists():
                current.rename(self._old(flow_id))
            elif not back:
                self._remove(flow_id, current)
            if (replaced := undo_back if back else undo).exists():
                replaced.rename(current)

        await _finished(work)

    async def remove(self, flow_id: str) -> None:
        """All of it. What is gone already counts as removed."""

        def work() -> None:
            shutil.rmtree(self.folder(flow_id), ignore_errors=True)
            # Not by `glob`, which keeps a compiled pattern of each flow that there ever was.
            if self._root.is_dir():
                for kept in [kept for kept in self._root.iterdir() if kept.name.startswith(f".{flow_id}.")]:
                    shutil.rmtree(kept, ignore_errors=True)

        await asyncio.to_thread(work)

    async def sweep(self) -> None:
        """When a manager has ended: remove what was being staged, and keep what it was about to go back to."""

        def work() -> None:
            for staged in self._root.glob(".*.new-*"):
                shutil.rmtree(staged, ignore_errors=True)
            for back in self._root.glob(".*.back"):
                back.rename(back.with_suffix(".old"))

        await asyncio.to_thread(work)

    def _remove(self, flow_id: str, folder: Path) -> None:
        """Its name is free at once, also for whoever comes after a kill in the middle."""
        if folder.exists():
            away = self._new(flow_id)
            folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def _undo(self, flow_id: str, *, back: bool) -> Path:
        """`back`: of a rollback."""
        return self._root / f".{flow_id}.undo{'-back' if back else ''}"

    def _back(self, flow_id: str) -> Path:
        return self._root / f".{flow_id}.back"

    def _old(self, flow_id: str) -> Path:
        return self._root / f".{flow_id}.old"

    def _new(self, flow_id: str) -> Path:
        return self._root / f".{flow_id}.new-{secrets.token_hex(4)}"

    def _stage(self, flow_id: str, source: Path) -> Path:
        staged = self._new(flow_id)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged.mkdir()
            staged.chmod(FOLDER_MODE)
            if source.is_dir():
                copy_folder(source, staged)
            elif is_archive(source):
                unpack(source, staged)
            elif source.is_file():
                copy_file(source, staged / source.name, source.stat().st_mode)
            else:
                raise PathNotAllowed("code_path is neither a file nor a folder", path=str(source))
        except BaseException as error:
            shutil.rmtree(staged, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            if error.errno == _ENOSPC:
                raise DiskFull("no space left for the flow's code") from None
            raise InvalidRequest(
                f"code_path: {error.strerror}", fields=[{"path": "code_path", "reason": str(error.strerror)}]
            ) from None
        return staged


async def _finished(work: Callable[[], T]) -> T:
    """In a thread. One can't be cancelled: a caller that is waits for its end, else it would write after the clean-up."""
    doing = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise
