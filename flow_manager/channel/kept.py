"""Small secret files that are made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_OTHERS = 0o077
MAX_BYTES = 64 * 1024


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is in the file; made where there is none, for this user's eyes alone.

    :raises OSError: it can't be read or made. PermissionError: others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        content = make()
        put(path, content)
        return content
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & _OTHERS:
            raise PermissionError(0, "others may read it: chmod 600", str(path))
        return file.read(MAX_BYTES)


def put(path: Path, content: bytes) -> None:
    """Whole or not at all: an interrupted start must not leave half a key. :raises OSError:"""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
