from __future__ import annotations

import pytest

from flow_manager.runtimes.docker.executables import candidates, what


@pytest.mark.parametrize(
    ("command", "path", "folder", "wanted"),
    [
        ("sh", "/bin:/usr/bin", "/", ["/bin/sh", "/usr/bin/sh"]),
        ("/bin/sh", "/usr/bin", "/w", ["/bin/sh"]),
        ("./run", "/usr/bin", "/w", ["/w/run"]),
        ("bin/run", "/usr/bin", "/w", ["/w/bin/run"]),
        ("run", "", "/w", ["/w/run"]),
        ("run", "here:/bin", "/w", ["/w/here/run", "/bin/run"]),
    ],
)
def test_a_command_is_looked_for_where_execvp_would(command: str, path: str, folder: str, wanted: list[str]) -> None:
    assert list(candidates(command, path, folder)) == wanted


def test_what_to_look_for_is_read_from_the_container() -> None:
    assert what({"Path": "run", "Config": {"Env": ["A=b", "PATH=/x"], "WorkingDir": "/w"}}) == ("run", "/x", "/w")
    assert what({"Path": "run", "Config": {"Env": None}}) == ("run", "/bin:/usr/bin", "/")
    assert what({}) == ("", "/bin:/usr/bin", "/")
