from __future__ import annotations

from pathlib import Path

import pytest

from flow_manager.runtimes.docker.ourselves import own_container

ID = "ab" * 32
# As the kernel writes it (proc(5)): id, parent, device, root, mount point, options …
CONTAINED = (
    "683 675 0:52 / / rw,relatime - overlay overlay rw\n"
    f"702 683 8:1 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw\n"
    f"703 683 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n"
)
# A host, or a container, that sees somebody else's folder.
ELSEWHERE = f"90 25 8:1 /var/lib/docker/containers/{ID}/hostname /mnt/look/hostname rw - ext4 /dev/sda1 rw\n"


@pytest.mark.parametrize(("mounts", "expected"), [(CONTAINED, ID), (ELSEWHERE, None), ("", None)])
def test_it_is_told_by_the_files_that_the_engine_mounts(tmp_path: Path, mounts: str, expected: str | None) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(mounts)
    assert own_container(file) == expected


def test_where_the_system_does_not_tell_it_is_no_container(tmp_path: Path) -> None:
    assert own_container(tmp_path / "nothing") is None
