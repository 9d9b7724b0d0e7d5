"""Copying code from a folder: files, folders, and links that stay inside; bounded in number and size."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from flow_manager.errors import InvalidRequest, PathNotAllowed

MAX_ENTRIES = 10_000
MAX_BYTES = 256 * 1024 * 1024
FOLDER_MODE = 0o755
FILE_MODE = 0o644


class Budget:
    """What a copy may still take."""

    def __init__(self) -> None:
        self._entries = self._bytes = 0

    def entry(self) -> None:
        """:raises InvalidRequest: past 10,000."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise refused(f"more than {MAX_ENTRIES} entries")

    def take(self, size: int) -> None:
        """:raises InvalidRequest: past 256 MiB."""
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise refused(f"more than {MAX_BYTES // 2**20} MiB")


def refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"code_path: {reason}", fields=[{"path": "code_path", "reason": reason}])


def copy_folder(source: Path, target: Path) -> None:
    """The content of `source`, into a folder that is there and empty. :raises PathNotAllowed, InvalidRequest, OSError:"""
    budget = Budget()
    for current, folders, files in os.walk(source):
        here = Path(current)
        there = target / here.relative_to(source)
        for name in [*folders, *files]:
            item = here / name
            found = item.lstat()
            budget.entry()
            if stat.S_ISLNK(found.st_mode):
                _copy_link(item, there / name, source)
            elif stat.S_ISDIR(found.st_mode):
                (there / name).mkdir()
                (there / name).chmod(FOLDER_MODE)
            elif stat.S_ISREG(found.st_mode):
                copy_file(item, there / name, found.st_mode, budget)
            else:
                raise PathNotAllowed(f"'{item.relative_to(source)}' is no file, folder or link", path=str(item))


def copy_file(source: Path, target: Path, mode: int, budget: Budget | None = None) -> None:
    """:raises PathNotAllowed: it isn't a file (any more). :raises InvalidRequest: past what may be copied."""
    # Never through a link: the source may have been swapped for one since it was looked at.
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reader:
        found = os.fstat(reader.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PathNotAllowed(f"'{source.name}' is no file", path=str(source))
        (budget or Budget()).take(found.st_size)
        write_file(reader, target, mode, found.st_size)


def write_file(reader: BinaryIO, target: Path, mode: int, size: int) -> None:
    """At most `size` bytes: what grows while it is read is cut. Only the right to execute is kept of `mode`."""
    with target.open("xb") as writer:
        left = size
        while left > 0 and (piece := reader.read(min(left, shutil.COPY_BUFSIZE))):  # type: ignore[attr-defined]
            writer.write(piece)
            left -= len(piece)
    target.chmod(FILE_MODE | (mode & 0o111))


def _copy_link(item: Path, target: Path, root: Path) -> None:
    wanted = item.readlink()
    try:
        real = (item.parent / wanted).resolve()
    except (OSError, RuntimeError):  # a loop
        real = Path("/")
    if wanted.is_absolute() or not real.is_relative_to(root):
        raise PathNotAllowed(f"the link '{item.relative_to(root)}' leads out of the code's folder", path=str(item))
    target.symlink_to(wanted)
