"""A lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import os
from pathlib import Path

from flow_manager.util import file_lock


def test_one_holder_at_a_time_on_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
        assert file_lock.take(first)
        assert not file_lock.take(second)
        os.close(first)
        assert file_lock.take(second)
        os.close(second)
