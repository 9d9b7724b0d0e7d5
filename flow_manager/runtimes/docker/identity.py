"""Which container is whose: ours by its labels, adopted by `flow-manager.enable=true` or by the settings, or nothing to us.
Pure.

Two managers on one engine: a container that says `flow-manager.instance` is that manager's alone; one that doesn't is
adopted by every manager whose settings allow it (`adopt`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flow_manager.runtimes.base import LABEL_ENABLE, LABEL_ID, LABEL_INSTANCE
from flow_manager.util.ids import derived_flow_id

ENABLED = "true"
_ID = re.compile(r"[0-9a-f]{12,64}\Z")
# What docker compose, old and new, writes on the containers that it makes.
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"
COMPOSE_NUMBER = "com.docker.compose.container-number"
COMPOSE_ONE_OFF = "com.docker.compose.oneoff"


@dataclass(frozen=True, slots=True)
class Identity:
    flow_id: str
    adopted: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """`runtime` is this runtime's configured name, `adopts` whether it looks at others' containers by their labels; `declared`
    are the names and ids of those that settings name."""

    runtime: str
    instance: str
    adopts: bool
    declared: tuple[str, ...] = ()

    def identity(self, labels: Mapping[str, str], name: str, runtime_id: str = "") -> Identity | None:
        """Of a container with these labels, this name and this id of the engine's; None: not to be touched."""
        owner = labels.get(LABEL_INSTANCE, "")
        if owner == self.instance and (own := labels.get(LABEL_ID)):
            return Identity(own, False)
        if owner in ("", self.instance) and any(is_meant(word, name, runtime_id) for word in self.declared):
            return Identity(self._derived(labels, name), True)
        if not self.adopts or labels.get(LABEL_ENABLE) != ENABLED or owner not in ("", self.instance):
            return None
        # `compose run` copies the service's labels: a job that somebody runs by hand must not pass for the service.
        if labels.get(COMPOSE_ONE_OFF, "").lower() == "true":
            return None
        return Identity(self._derived(labels, name), True)

    def _derived(self, labels: Mapping[str, str], name: str) -> str:
        """`compose up` makes a container anew under the same service: the id must not come from the container."""
        project, service = labels.get(COMPOSE_PROJECT), labels.get(COMPOSE_SERVICE)
        if project and service:
            return derived_flow_id(self.runtime, project, service, labels.get(COMPOSE_NUMBER, "1"))
        return derived_flow_id(self.runtime, name)


def is_meant(word: str, name: str, runtime_id: str) -> bool:
    """Whether settings mean this container: by its name, or by the first 12 digits or more of its id."""
    return word == name or (is_id(word) and runtime_id.startswith(word))


def is_id(word: str) -> bool:
    return _ID.match(word) is not None


def own_name(names: Any) -> str:
    """Of a list entry's names the container's own: links add `/other/alias`."""
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((name.lstrip("/") for name in found if name.count("/") == 1), "")
