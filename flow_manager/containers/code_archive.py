"""Unpacking code from a tar archive that nobody vouches for.

The standard library's extraction filters were passed more than once (CVE-2025-4517, CVE-2025-4330, CVE-2024-12718), so
`tarfile` only reads here: names are judged, and files written, by this module. Files and folders come first, links last and
are judged as they really resolve, so that nothing is ever written through one.
"""

from __future__ import annotations

import tarfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from flow_manager.containers.code_copy import FOLDER_MODE, Budget, refused, write_file
from flow_manager.errors import PathNotAllowed

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# What no honest code reaches: text shrinks to a tenth. Small archives are let be: their headers weigh most.
MAX_RATIO = 100
RATIO_FROM = 10 * 1024 * 1024
# A name is at most some hundred bytes; `tarfile` would take what a header announces into memory, however much it is.
MAX_HEADER = 1024 * 1024
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_BROKEN = (tarfile.TarError, EOFError, zlib.error, LZMAError, UnicodeError, ValueError, OverflowError)


class _BoundedHeader(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > MAX_HEADER:
            raise tarfile.ReadError("a header is too large")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)


def unpack(source: Path, target: Path) -> None:
    """Into a folder that is there and empty.

    :raises PathNotAllowed: an absolute name, `..`, a link that leads out, a hard link, a device; a name that stands twice.
    :raises InvalidRequest: it can't be read, is too large, or shrank too well to be code.
    :raises OSError:
    """
    try:
        with tarfile.open(source, "r:*", tarinfo=_BoundedHeader) as archive:
            _unpack(archive, target, source.stat().st_size)
    except _BROKEN as error:
        raise refused(f"the archive can't be read: {error}") from None


def _unpack(archive: tarfile.TarFile, target: Path, packed: int) -> None:
    budget, links = Budget(), dict[Path, str]()
    unpacked = 0
    while (member := archive.next()) is not None:
        budget.entry()
        archive.members = []  # type: ignore[attr-defined]  # else all headers of a bomb are kept
        name = _judged(member.name)
        path = target / name
        if member.issym():
            if path in links or path.exists():
                raise PathNotAllowed(f"'{name}' stands twice in the archive", path=str(name))
            links[path] = member.linkname
        elif member.isdir():
            _folders(path, target, links, budget)
        elif member.isreg():
            unpacked += member.size
            budget.take(member.size)
            if unpacked > max(RATIO_FROM, packed * MAX_RATIO):
                raise refused(f"the archive grows to more than {MAX_RATIO} times its size")
            _folders(path.parent, target, links, budget)
            if path in links or path.exists():
                raise PathNotAllowed(f"'{name}' stands twice in the archive", path=str(name))
            reader = archive.extractfile(member)
            assert reader is not None
            with reader:
                write_file(reader, path, member.mode, member.size)  # type: ignore[arg-type]
        else:
            what = "a hard link" if member.islnk() else "no file, folder or link"
            raise PathNotAllowed(f"'{name}' is {what}", path=str(name))
    _link(links, target, budget)


def _judged(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\x00" in name or "\\" in name:
        raise PathNotAllowed(f"'{name[:200]}' leads out of the code's folder", path=name[:200])
    return path


def _folders(path: Path, root: Path, links: dict[Path, str], budget: Budget) -> None:
    """Make it and what is missing above it."""
    for folder in [*reversed(path.relative_to(root).parents), path.relative_to(root)]:
        here = root / folder
        if here in links:
            raise PathNotAllowed(f"'{folder}' is a link and a folder in the archive", path=str(folder))
        if here == root:
            continue
        if here.is_dir():
            continue
        if here.exists():
            raise PathNotAllowed(f"'{folder}' is a file and a folder in the archive", path=str(folder))
        budget.entry()
        here.mkdir()
        here.chmod(FOLDER_MODE)


def _link(links: dict[Path, str], root: Path, budget: Budget) -> None:
    for path, wanted in links.items():
        if PurePosixPath(wanted).is_absolute():
            raise _leads_out(path, root)
        _folders(path.parent, root, links, budget)
        if path.exists() or path.is_symlink():
            raise PathNotAllowed(f"'{path.relative_to(root)}' stands twice in the archive", path=path.name)
        path.symlink_to(wanted)
    # Judged when all are there: one may lead through another.
    real_root = root.resolve()
    for path in links:
        try:
            inside = path.resolve().is_relative_to(real_root)
        except (OSError, RuntimeError):
            inside = False  # a loop
        if not inside:
            raise _leads_out(path, root)


def _leads_out(path: Path, root: Path) -> PathNotAllowed:
    name = str(path.relative_to(root))
    return PathNotAllowed(f"the link '{name}' leads out of the code's folder", path=name)
