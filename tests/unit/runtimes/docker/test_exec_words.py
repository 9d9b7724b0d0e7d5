"""Engines' words for a command that did not begin."""

from __future__ import annotations

import pytest

from flow_manager.errors import ExecFailed
from flow_manager.runtimes.docker.exec_words import not_begun, refused_by_the_kernel

OLD = "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: "
NEW = "OCI runtime exec failed: exec failed: unable to start container process: "


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (f'{NEW}exec: "nope": executable file not found in $PATH: unknown\r\n', 127, "nope: not found\n"),
        (f'{OLD}exec: "nope": executable file not found in $PATH: unknown', 127, "nope: not found\n"),
        (f'{NEW}exec: "/x": stat /x: no such file or directory: unknown', 127, "nope: not found\n"),
        ("OCI runtime exec failed: executable file `nope` not found in $PATH: No such file or directory: unknown", 127, "nope: not found\n"),
        ("crun: executable file `nope` not found: No such file or directory: OCI runtime attempted to invoke a command that was not found", 127, "nope: not found\n"),
        (f'{NEW}exec: "/etc": permission denied: unknown\r\n', 126, "nope: permission denied\n"),
        (f'{NEW}exec: "/etc": is a directory: unknown', 126, "nope: is a directory\n"),
        (f"{NEW}exec /x: exec format error: unknown", 126, "nope: exec format error\n"),
        (f"{NEW}exec /x: argument list too long: unknown", 126, "nope: argument list too long\n"),
    ],
)  # fmt: skip
def test_a_command_at_fault_has_a_shells_code(words: str, code: int, told: str) -> None:
    assert not_begun(words, "nope") == (code, told)


@pytest.mark.parametrize(
    "words",
    [
        f'{NEW}chdir to cwd ("/nope") set in config.json failed: no such file or directory: unknown\r\n',
        f'{OLD}process_linux.go:130: executing setns process caused: chdir to cwd ("/n") set in config.json failed: permission denied',
        f'{NEW}chdir to cwd ("/etc/passwd") set in config.json failed: not a directory: unknown: Are you trying to mount …',
        "OCI runtime exec failed: crun: chdir: No such file or directory",
        "unable to find user nobodyhere: no matching entries in passwd file\r\n",
        "cgroups: cannot allocate memory",
    ],
)  # fmt: skip
def test_what_is_around_the_command_is_a_failure_with_the_engines_words(words: str) -> None:
    with pytest.raises(ExecFailed) as failed:
        not_begun(words, "nope")
    assert failed.value.details["reason"] in words


@pytest.mark.parametrize(
    ("stderr", "code", "expected"),
    [
        (b"exec /bin/echo: argument list too long\n", 1, (126, "echo: argument list too long\n")),
        (b"exec /flow/echo: exec format error\n", 255, (126, "echo: exec format error\n")),
        (b"exec /flow/echo: no such file or directory\n", 1, (127, "echo: not found\n")),
        (b'standard_init_linux.go:228: exec user process caused: exec format error\n', 1, (126, "echo: exec format error\n")),
        (b"exec /bin/echo: argument list too long\n", 2, None),
        (b"exec /bin/other: argument list too long\n", 1, None),
        (b"exec /bin/echo: something else\n", 1, None),
        (b"more\nexec /bin/echo: exec format error\n", 1, None),
        (b"", 1, None),
        (b"\xff", 1, None),
    ],
)  # fmt: skip
def test_the_kernels_refusal_comes_as_the_processs_last_words(
    stderr: bytes, code: int, expected: tuple[int, str] | None
) -> None:
    assert refused_by_the_kernel(code, b"", stderr, "echo") == expected
    assert refused_by_the_kernel(code, b"out", stderr, "echo") is None
