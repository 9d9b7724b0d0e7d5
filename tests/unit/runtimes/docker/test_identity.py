from __future__ import annotations

from typing import Any

import pytest

from flow_manager.runtimes.docker.identity import Identity, Judge, own_name
from flow_manager.util.ids import derived_flow_id

ENABLE = {"flow-manager.enable": "true"}
COMPOSE = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
OURS = {"flow-manager.instance": "i", "flow-manager.id": "abcdefghijkl"}
JUDGE = Judge("docker", "i", adopts=True)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, None),
        (OURS, Identity("abcdefghijkl", False)),
        ({**OURS, **ENABLE}, Identity("abcdefghijkl", False)),
        ({**OURS, "flow-manager.instance": "j"}, None),
        ({**OURS, **ENABLE, "flow-manager.instance": "j"}, None),
        (ENABLE, Identity(derived_flow_id("docker", "box"), True)),
        ({**ENABLE, "flow-manager.instance": "i"}, Identity(derived_flow_id("docker", "box"), True)),
        # Whoever makes a container can't pass it for a flow of ours.
        ({**ENABLE, "flow-manager.id": "abcdefghijkl"}, Identity(derived_flow_id("docker", "box"), True)),
        ({"flow-manager.enable": "false"}, None),
        ({"flow-manager.enable": "TRUE"}, None),
        ({"flow-manager.enable": ""}, None),
        ({**ENABLE, **COMPOSE}, Identity(derived_flow_id("docker", "shop", "web", "1"), True)),
        (
            {**ENABLE, **COMPOSE, "com.docker.compose.container-number": "2", "com.docker.compose.oneoff": "False"},
            Identity(derived_flow_id("docker", "shop", "web", "2"), True),
        ),
        ({**ENABLE, **COMPOSE, "com.docker.compose.oneoff": "True"}, None),
    ],
)
def test_whose_a_container_is(labels: dict[str, str], expected: Identity | None) -> None:
    assert JUDGE.identity(labels, "box") == expected


def test_where_settings_say_no_only_our_own_are_seen() -> None:
    judge = Judge("docker", "i", adopts=False)
    assert judge.identity(ENABLE, "box") is None
    assert judge.identity(OURS, "box") == Identity("abcdefghijkl", False)


def test_ids_of_two_runtimes_differ() -> None:
    assert Judge("lab", "i", True).identity(ENABLE, "box") != JUDGE.identity(ENABLE, "box")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["/web"], "web"), (["/other/alias", "/web"], "web"), ([], ""), (None, ""), (["/a/b"], ""), ([7, "/x"], "x")],
)
def test_a_containers_own_name_is_no_link(names: Any, expected: str) -> None:
    assert own_name(names) == expected


@pytest.mark.parametrize(
    ("labels", "name", "adopted"),
    [
        ({}, "box", True),
        ({}, "boxer", False),
        ({"flow-manager.instance": "j"}, "box", False),
        ({"flow-manager.instance": "i"}, "box", True),
        ({**COMPOSE, "com.docker.compose.oneoff": "True"}, "box", True),
    ],
)
def test_one_that_settings_name_needs_no_label(labels: dict[str, str], name: str, adopted: bool) -> None:
    judge = Judge("docker", "i", adopts=False, declared=("box", "0123456789ab"))
    found = judge.identity(labels, name)
    assert (found is not None and found.adopted) == adopted
    assert judge.identity(labels, "other", "0123456789abcdef") == judge.identity(labels, "other", "0123456789ab")
    assert judge.identity(labels, "other", "1123456789ab") is None


def test_what_a_manager_made_stays_its_own_though_settings_name_it() -> None:
    assert Judge("docker", "i", True, ("box",)).identity(OURS, "box") == Identity("abcdefghijkl", False)
