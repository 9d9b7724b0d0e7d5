"""The folders in which the sockets are: made, guarded and cleared.

A flow that is root in its container may put anything into its own folder, at any moment: links to files of the host, folders
with our socket's name. So nothing in there is ever followed, and a mode is set on an inode that was looked at, never on a
path. The flow's folder itself, and the one above, are out of its reach: we refuse them when they are not ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from flow_manager.errors import DiskFull, SettingsRefused, SystemFailure
from flow_manager.settings.models import MAX_SOCKETS_DIR_BYTES
from flow_manager.util import file_lock

# Closed by the parent for users of the host; open to whatever user runs in the container that it is mounted into.
SOCKETS_DIR_MODE = 0o700
FLOW_DIR_MODE = 0o711
SOCKET_MODE = 0o666
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_sockets_dir(path: Path) -> int:
    """Make `path` if it isn't there, close it to others, and give a descriptor of it. What is in it stays.

    :raises SettingsRefused: too long a path, a link, not a folder, another user's, or it can't be made.
    """
    size = len(os.fsencode(path))
    if size > MAX_SOCKETS_DIR_BYTES:
        raise SettingsRefused(
            f"sockets_dir: {path} has {size} bytes; a socket's path allows {MAX_SOCKETS_DIR_BYTES}: choose a shorter folder"
        )
    try:
        path.mkdir(mode=SOCKETS_DIR_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, _OPEN_DIR)
    except OSError as exc:
        if path.is_symlink():
            raise SettingsRefused(f"sockets_dir: {path} is a link: name the folder itself") from None
        raise SettingsRefused(f"sockets_dir: {path} can't be used: {exc.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise SettingsRefused(
                f"sockets_dir: {path} belongs to user {found.st_uid}, not to this service's ({os.geteuid()}): choose another"
            )
        if stat.S_IMODE(found.st_mode) != SOCKETS_DIR_MODE:
            os.fchmod(descriptor, SOCKETS_DIR_MODE)
        # Two managers here would clear each other's sockets.
        if not file_lock.take(descriptor):
            raise SettingsRefused(
                f"sockets_dir: {path} is used by another flow-manager; give another with --sockets-dir"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_anew_if_gone(path: Path, descriptor: int) -> None:
    """Where somebody removed `path` (a cleaner of temporary files, for instance) or put another folder in its place: make it
    again, behind the same descriptor, so that whoever holds that goes on. Else no flow could start until a restart.

    :raises SystemFailure: it can't be made again.
    """
    try:
        there = path.lstat()
        if os.path.samestat(there, os.fstat(descriptor)):
            return
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise SystemFailure(f"the folder of the sockets can't be read: {exc.strerror}") from None
    try:
        made = open_sockets_dir(path)
    except SettingsRefused as exc:
        raise SystemFailure(str(exc)) from None
    try:
        os.dup2(made, descriptor, inheritable=False)  # the lock is of the open folder, not of the number: it stays
    finally:
        os.close(made)


@contextlib.contextmanager
def flow_folder(sockets_dir: int, flow_id: str) -> Iterator[int]:
    """The flow's folder, made if it isn't there; gives a descriptor of it.

    :raises SystemFailure: something else stands in its place, or it can't be made. DiskFull where that is why.
    """
    with os_errors_as_ours("the flow's socket folder can't be made"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(flow_id, FLOW_DIR_MODE, dir_fd=sockets_dir)
        descriptor = _open_dir(flow_id, sockets_dir)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise SystemFailure(f"the socket folder of flow {flow_id} belongs to user {found.st_uid}")
        # Also the first time: mkdir's mode is cut by the umask.
        if stat.S_IMODE(found.st_mode) != FLOW_DIR_MODE:
            os.fchmod(descriptor, FLOW_DIR_MODE)
        yield descriptor
    finally:
        os.close(descriptor)


async def clear(name: str, folder: int) -> None:
    """Remove whatever is called `name` in `folder`; a link itself, never what it points to.

    :raises SystemFailure: when it can't be removed.
    """
    with os_errors_as_ours("what is in the place of the flow's socket can't be removed"):
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except OSError as exc:
            if exc.errno not in (errno.EISDIR, errno.EPERM):
                raise
            # In a thread: nobody knows how much the flow has put there.
            await asyncio.to_thread(shutil.rmtree, name, dir_fd=folder)


def open_to_all(name: str, folder: int) -> tuple[int, int]:
    """Set the mode of the socket `name` in `folder`; gives its device and inode.

    By an O_PATH descriptor: `chmod` follows links, and a flow could have put one to a file of the host in its place just now.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            raise SystemFailure("something else was put in the place of the flow's socket")
        # proc(5): the magic link leads to this inode, whatever its name is by now.
        Path(f"/proc/self/fd/{descriptor}").chmod(SOCKET_MODE)
        return found.st_dev, found.st_ino
    finally:
        os.close(descriptor)


def still_there(name: str, folder: int, identity: tuple[int, int]) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == identity


async def remove_socket(sockets_dir: int, flow_id: str, name: str) -> None:
    """Remove the socket `name` from the flow's folder, where there is one.

    :raises SystemFailure: when it can't be removed.
    """
    with os_errors_as_ours("the flow's socket can't be removed"):
        try:
            folder = _open_dir(flow_id, sockets_dir)
        except FileNotFoundError:
            return
    try:
        await clear(name, folder)
    finally:
        os.close(folder)


async def remove_flow_folder(sockets_dir: int, flow_id: str) -> None:
    """Remove the flow's folder with all that it left in it.

    :raises SystemFailure: when something in it can't be removed.
    """
    with os_errors_as_ours("the flow's socket folder can't be removed"):
        try:
            os.rmdir(flow_id, dir_fd=sockets_dir)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            os.unlink(flow_id, dir_fd=sockets_dir)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
            await asyncio.to_thread(shutil.rmtree, flow_id, dir_fd=sockets_dir)


@contextlib.contextmanager
def os_errors_as_ours(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        kind = DiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else SystemFailure
        raise kind(f"{what}: {exc.strerror}", reason=errno.errorcode.get(exc.errno or 0)) from exc


def _open_dir(name: str, parent: int) -> int:
    try:
        return os.open(name, _OPEN_DIR, dir_fd=parent)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            raise SystemFailure(f"what is called {name} in the sockets folder is no folder: remove it") from None
        raise
