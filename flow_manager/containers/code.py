"""A flow's code: copied into `<state_dir>/code/<id>/`, where it is mounted at `/flow`. Staged first, then renamed."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

from flow_manager.errors import DiskFull, InvalidRequest, PathNotAllowed

MAX_ENTRIES = 10_000
MAX_BYTES = 256 * 1024 * 1024
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


class CodeStore:
    """The folders below `<state_dir>/code`. The calls run in a thread: a copy may take seconds."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, flow_id: str) -> Path:
        return self._root / flow_id

    async def put(self, flow_id: str, source: Path) -> Path:
        """Copy a file or a folder's content; the flow's folder.

        :raises PathNotAllowed: for a link that leads out of it, or anything that is neither file, folder nor link.
        :raises InvalidRequest: past 10,000 entries or 256 MiB.
        :raises DiskFull:
        """
        work = asyncio.get_running_loop().run_in_executor(None, self._put, flow_id, source)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread can't be cancelled: wait for its end, else it would write after the clean-up.
            await asyncio.wait([work])
            raise

    async def remove(self, flow_id: str) -> None:
        """What is gone already counts as removed."""
        await asyncio.to_thread(shutil.rmtree, self.folder(flow_id), True)

    def _put(self, flow_id: str, source: Path) -> Path:
        target = self.folder(flow_id)
        staged = self._root / f".{flow_id}.new"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged.mkdir(mode=_FOLDER_MODE)
            staged.chmod(_FOLDER_MODE)
            if source.is_dir():
                _copy_folder(source, staged)
            elif source.is_file():
                _copy_file(source, staged / source.name, source.stat().st_mode)
            else:
                raise PathNotAllowed("code_path is neither a file nor a folder", path=str(source))
            staged.rename(target)
        except OSError as error:
            if error.errno == 28:  # ENOSPC
                raise DiskFull("no space left for the flow's code") from None
            raise InvalidRequest(
                f"code_path: {error.strerror}", fields=[{"path": "code_path", "reason": str(error.strerror)}]
            ) from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return target


def _copy_folder(source: Path, target: Path) -> None:
    entries = size = 0
    for current, folders, files in os.walk(source):
        here = Path(current)
        there = target / here.relative_to(source)
        for name in [*folders, *files]:
            item = here / name
            found = item.lstat()
            entries += 1
            if stat.S_ISLNK(found.st_mode):
                _copy_link(item, there / name, source)
            elif stat.S_ISDIR(found.st_mode):
                (there / name).mkdir(mode=_FOLDER_MODE)
                (there / name).chmod(_FOLDER_MODE)
            elif stat.S_ISREG(found.st_mode):
                size += found.st_size
                _check(entries, size)
                _copy_file(item, there / name, found.st_mode)
            else:
                raise PathNotAllowed(f"'{item.relative_to(source)}' is no file, folder or link", path=str(item))
            _check(entries, size)


def _check(entries: int, size: int) -> None:
    if entries > MAX_ENTRIES or size > MAX_BYTES:
        reason = f"more than {MAX_ENTRIES} entries or {MAX_BYTES // 2**20} MiB"
        raise InvalidRequest(f"code_path: {reason}", fields=[{"path": "code_path", "reason": reason}])


def _copy_link(item: Path, target: Path, root: Path) -> None:
    wanted = item.readlink()
    real = (item.parent / wanted).resolve()
    if wanted.is_absolute() or not real.is_relative_to(root):
        raise PathNotAllowed(f"the link '{item.relative_to(root)}' leads out of the code's folder", path=str(item))
    target.symlink_to(wanted)


def _copy_file(source: Path, target: Path, mode: int) -> None:
    # Never through a link: the source may have been swapped for one since it was looked at.
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reader, target.open("xb") as writer:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise PathNotAllowed(f"'{source.name}' is no file", path=str(source))
        shutil.copyfileobj(reader, writer)
    target.chmod(_FILE_MODE | (mode & 0o111))
