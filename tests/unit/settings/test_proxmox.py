"""Settings of a runtime of kind proxmox, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager.settings.checks import contradictions
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings

GOOD: dict[str, Any] = {"kind": "proxmox", "url": "https://pve:8006", "token_id": "flow@pve!t", "secret": "x"}


def problems(**changes: Any) -> list[str]:
    runtime = RuntimeSettings(**{key: value for key, value in {**GOOD, **changes}.items() if value is not None})
    return contradictions(Settings(state_dir=Path("/s"), sockets_dir=Path("/r"), runtimes={"lab": runtime}))


def test_a_token_or_a_user_is_enough() -> None:
    assert problems() == []
    assert problems(token_id=None, secret=None, user="root", password="p") == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"url": None}, "runtimes.lab.url"),
        ({"url": "http://pve:8006"}, "https"),
        ({"url": "https://user:pw@pve"}, "https"),
        ({"secret": None}, "log in"),
        ({"token_id": None, "secret": None, "user": "root"}, "log in"),
        ({"user": "root", "password": "p"}, "not both"),
        ({"ca_file": Path("/nonexistent.pem")}, "there is no file"),
        ({"verify_tls": False, "ca_file": Path("/etc/hostname")}, "no meaning"),
        ({"cgroup": Path("/x")}, "cgroup"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], word: str) -> None:
    assert word in "\n".join(problems(**changes))


@pytest.mark.parametrize("token", ["flow", "flow@pve", "flow@pve!", "a b@pve!t"])
def test_a_tokens_id_has_a_form(token: str) -> None:
    with pytest.raises(ValueError, match="token_id"):
        RuntimeSettings(token_id=token)
