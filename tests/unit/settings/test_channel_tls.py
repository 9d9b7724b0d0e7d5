"""Settings of the channel's TLS port that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager.settings.checks import contradictions
from flow_manager.settings.models import Settings


def lines_for(**channel: Any) -> list[str]:
    return contradictions(
        Settings.model_validate({"state_dir": Path("/s"), "sockets_dir": Path("/c"), "channel": channel})
    )


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ({"tls_address": "a:1"}, "channel.tls_address: means nothing without channel.tls_listen"),
        ({"tls_cert": "/c", "tls_key": "/k"}, "channel.tls_cert: means nothing without channel.tls_listen"),
        ({"tls_listen": "127.0.0.1:1", "tls_cert": "/c"}, "channel.tls_key: is needed with channel.tls_cert"),
        ({"tls_listen": "127.0.0.1:1", "tls_key": "/k"}, "channel.tls_cert: is needed with channel.tls_key"),
        ({"tls_listen": "127.0.0.1:1", "tls_ca": "/a"}, "channel.tls_ca: is who signed channel.tls_cert"),
    ],
)
def test_what_means_nothing_by_itself_is_refused(channel: dict[str, Any], words: str) -> None:
    assert any(line.startswith(words) for line in lines_for(**channel))


@pytest.mark.parametrize(
    "channel",
    [
        {},
        {"tls_listen": "127.0.0.1:1"},
        {"tls_listen": "0.0.0.0:1", "tls_address": "a:1", "tls_cert": "/c", "tls_key": "/k", "tls_ca": "/a"},
    ],
)
def test_what_fits_together_is_taken(channel: dict[str, Any]) -> None:
    assert lines_for(**channel) == []
