"""What of a container's labels has changed since it was adopted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flow_manager.containers.relabelled import Changed, changed, follows_labels, key_of

BEFORE = {"flow-manager.port": "80", "flow-manager.idle-timeout": "5m", "team": "blue"}


def entry(key: str | None, *, adopted: bool = True, existing: bool = False) -> Any:
    record = SimpleNamespace(request_key=key, adopted=adopted)
    return SimpleNamespace(record=record, config=SimpleNamespace(existing=existing))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (BEFORE, Changed(False, False)),
        ({**BEFORE, "team": "red"}, Changed(False, False)),
        ({**BEFORE, "flow-manager.enable": "true"}, Changed(False, False)),
        (dict(reversed(BEFORE.items())), Changed(False, False)),
        ({**BEFORE, "flow-manager.port": "81"}, Changed(True, False)),
        ({**BEFORE, "flow-manager.hosts": "a.example"}, Changed(True, False)),
        ({**BEFORE, "flow-manager.idle-timeout": "6m"}, Changed(True, True)),
        ({**BEFORE, "flow-manager.ready-tcp": "80"}, Changed(True, True)),
        ({"flow-manager.port": "80"}, Changed(True, True)),
    ],
)
def test_what_concerns_sleep_is_told_apart(labels: dict[str, str], told: Changed) -> None:
    assert changed(entry(key_of(BEFORE)), labels) == told


@pytest.mark.parametrize(
    "one",
    [
        entry("[[flows]] web"),
        entry("tom:request-1"),
        entry(key_of(BEFORE), existing=True),
        entry(key_of(BEFORE), adopted=False),
        entry(None),
    ],
)
def test_whom_settings_or_a_client_named_or_an_earlier_version_adopted_has_no_labels_that_change(one: Any) -> None:
    assert changed(one, {"flow-manager.port": "81"}) == Changed(False, False)


def test_one_that_an_earlier_version_adopted_follows_its_labels_from_now_on() -> None:
    assert follows_labels(entry(None))
    assert not follows_labels(entry("[[flows]] web"))
