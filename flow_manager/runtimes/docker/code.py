"""A flow's code, copied into its container: on an engine on another machine there is nothing to mount."""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path

from flow_manager.errors import RuntimeRefused
from flow_manager.runtimes.base import CODE_FOLDER_IN_CONTAINER
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.errors import KIND, Subject, translated

# What is in memory at a time; big enough that a folder of small files takes few turns of a thread.
PIECE = 1 << 20


class CodeCopier:
    """`timeout`: within so many seconds the engine takes the next piece, and answers after the last one."""

    def __init__(self, client: EngineClient, *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def put(self, flow_id: str, runtime_id: str, folder: Path) -> None:
        """`folder`'s content is at `/flow` in the container.

        :raises RuntimeRefused: it can't be read here, or the engine refuses it. :raises NoSpace, RuntimeUnavailable:
        """
        path = f"containers/{runtime_id}/archive"
        with translated(Subject(flow_id, operation="create")):
            await self._client.upload(path, read(folder), params={"path": "/"}, timeout=self._timeout)


async def read(folder: Path) -> AsyncGenerator[bytes, None]:
    """`archive`, in threads. :raises RuntimeRefused: something can't be read."""
    pieces = archive(folder, CODE_FOLDER_IN_CONTAINER.strip("/"))
    try:
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RuntimeRefused(f"the flow's code can't be read: {reason}", kind=KIND, reason=reason) from None
    finally:
        try:
            pieces.close()
        except ValueError:
            pass  # a thread is still at it: given up on the way


def archive(folder: Path, top: str) -> Generator[bytes, None, None]:
    """A tar archive of the folder, named `top` in it, in pieces of about a mebibyte. All of it is root's, modes are kept.

    :raises OSError: something in it can't be read, or was cut while it was.
    """
    gathered = bytearray()
    for part in _parts(folder, top):
        gathered += part
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered) + bytes(2 * tarfile.BLOCKSIZE)


def _parts(folder: Path, top: str) -> Iterator[bytes]:
    yield _head(folder, top)[0]

    def unreadable(error: OSError) -> None:
        raise error

    for current, folders, files in os.walk(folder, onerror=unreadable):
        for name in sorted([*folders, *files]):
            path = Path(current, name)
            head, size = _head(path, str(Path(top, path.relative_to(folder))))
            yield head
            if size:
                yield from _content(path, size)
                yield bytes(-size % tarfile.BLOCKSIZE)


def _head(path: Path, name: str) -> tuple[bytes, int]:
    """Its head in the archive, and how many bytes follow."""
    found = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
    else:
        info.size = found.st_size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), info.size


def _content(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as reader:
        left = size
        while left:
            piece = reader.read(min(left, PIECE))
            if not piece:
                raise OSError(f"{path.name} was cut while it was read")
            left -= len(piece)
            yield piece
